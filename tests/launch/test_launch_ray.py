"""Real Ray, real processes. One cluster serves all tests; each launch joins it as a stage would join one by address."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.errors import ClusterError, ModelError, OutOfMemoryError, PeerLostError, TrainingError
from pipeline.launch import local, losses
from pipeline.launch import ray as launcher
from pipeline.launch.cluster import Node, Room, room_for

pytestmark = pytest.mark.runs_ray


class Pause:
    """Nobody pauses."""

    def ask(self):
        raise AssertionError("no node is leaving")

    def lift(self):
        raise AssertionError("nothing was asked")

    def is_asked(self):
        return False


def launch(body, address, folder, *, worlds=(2,), max_failures=1):
    said = []
    launcher.launch(
        body,
        address=address,
        worlds=worlds,
        max_failures=max_failures,
        hang_seconds=60.0,
        wait_seconds=0.0,
        folder=folder / "ray",
        say=said.append,
        pause=Pause(),
    )
    return said


# Bodies are closures over plain values: a worker cannot import a test's module.


def test_every_rank_runs_once_in_its_own_process(address, tmp_path):
    folder = str(tmp_path)

    def body(rank, world_size, device):
        import torch

        name = f"rank-{rank}-of-{world_size}-on-{device}-with-{torch.get_num_threads()}"
        Path(folder, name).write_text(str(os.getpid()))

    assert launch(body, address, tmp_path) == []
    names = sorted(path.name for path in tmp_path.glob("rank-*"))
    assert names == ["rank-0-of-2-on-cpu-with-1", "rank-1-of-2-on-cpu-with-1"]
    assert len({path.read_text() for path in tmp_path.glob("rank-*")} | {str(os.getpid())}) == 3


def test_so_many_ranks_run_as_the_cluster_has_cores_for(address, tmp_path):
    folder = str(tmp_path)

    def body(rank, world_size, device):
        Path(folder, f"rank-{rank}-of-{world_size}").touch()

    assert launch(body, address, tmp_path, worlds=(4, 3, 2, 1)) == ["training with 2 ranks"]
    assert sorted(path.name for path in tmp_path.glob("rank-*")) == ["rank-0-of-2", "rank-1-of-2"]


def test_a_killed_rank_starts_the_world_again(address, tmp_path):
    folder = str(tmp_path)

    def body(rank, world_size, device):
        with open(Path(folder, f"starts-{rank}"), "a") as file:
            file.write("x")
        if rank == 1 and Path(folder, "starts-1").read_text() == "x":
            os.kill(os.getpid(), signal.SIGKILL)

    said = launch(body, address, tmp_path)
    assert (tmp_path / "starts-1").read_text() == "xx"
    assert len(said) == 1
    assert "died" in said[0]
    assert said[0].endswith("going on from the newest checkpoint, restart 1 of 1")


def test_a_rank_that_is_lost_too_often_ends_with_the_way_on(address, tmp_path):
    def body(rank, world_size, device):
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ClusterError, match=r"A rank was lost 2 times, .*run the same command to go on .*max_failures"):
        launch(body, address, tmp_path, worlds=(1,), max_failures=1)


def test_a_bug_fails_once_with_its_traceback(address, tmp_path):
    folder = str(tmp_path)

    def body(rank, world_size, device):
        with open(Path(folder, "starts"), "a") as file:
            file.write("x")
        raise KeyError("a bug of the user's")

    with pytest.raises(TrainingError, match=r"(?s)a restart would meet the same.*KeyError.*a bug of the user's"):
        launch(body, address, tmp_path, worlds=(1,), max_failures=3)
    assert (tmp_path / "starts").read_text() == "x"


def test_what_the_user_can_mend_comes_back_as_it_was(address, tmp_path):
    def body(rank, world_size, device):
        raise ModelError("use another backbone")

    with pytest.raises(ModelError, match="use another backbone"):
        launch(body, address, tmp_path, worlds=(1,))


def test_more_ranks_than_cores_are_refused(address, tmp_path):
    with pytest.raises(
        ClusterError, match=r"cluster\.num_workers=3 ranks need a core each and the cluster has 2; use 2"
    ):
        launch(print, address, tmp_path, worlds=(3,))


@pytest.mark.parametrize("nowhere", ["127.0.0.1:1", "no-port", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_listens_is_said_at_once(tmp_path, nowhere):
    with pytest.raises(ClusterError, match=rf"cluster\.address={nowhere} cannot be reached .*ray start --head"):
        launch(print, nowhere, tmp_path, worlds=(1,))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_death_counts_before_what_came_of_it(order):
    import ray.exceptions
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    died = WorkerHealthCheckFailedError("A worker health check failed.", ray.exceptions.ActorDiedError())
    failures = {order[0]: RuntimeError("gloo"), order[1]: died}
    assert losses.explain(failures, "", RuntimeError(), 60.0).what.startswith(f"rank {order[1]} was lost")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failure_counts_before_the_lost_peer_that_came_of_it(order):
    lost = PeerLostError("lost another rank")
    with pytest.raises(TrainingError, match=r"a restart would meet the same\. KeyError at line 7"):
        losses.explain({order[0]: KeyError(), order[1]: lost}, "KeyError at line 7", RuntimeError(), 60.0)
    with pytest.raises(ModelError, match="use another"):
        losses.explain({order[0]: ModelError("use another"), order[1]: lost}, "", RuntimeError(), 60.0)


def test_silence_and_a_notice_are_told_from_a_death():
    import ray.exceptions
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    silent = {0: PeerLostError("lost"), 1: WorkerHealthCheckTimeoutError("silent")}
    assert losses.explain(silent, "", RuntimeError(), 60.0) == losses.Loss("rank 1 said nothing for 60 s")
    taken = ray.exceptions.RayActorError(preempted=True)
    assert losses.explain({0: taken}, "", RuntimeError(), 60.0).is_announced
    assert not losses.explain({0: ray.exceptions.ActorDiedError()}, "", RuntimeError(), 60.0).is_announced


def test_of_several_that_fail_the_first_rank_is_named():
    failures = {2: OutOfMemoryError("Rank 2"), 1: PeerLostError("lost"), 0: OutOfMemoryError("Rank 0")}
    assert losses.explain(failures, "", RuntimeError(), 60.0).what == "Rank 0"


def test_ranks_that_only_lost_each_other_may_start_again():
    failures = {0: PeerLostError("rank 0 lost another"), 1: PeerLostError("rank 1 lost another")}
    assert losses.explain(failures, "", RuntimeError(), 60.0) == losses.Loss("rank 0 lost another")


def test_what_ray_train_may_wait_for_reaches_its_controller(monkeypatch):
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    monkeypatch.setattr(os, "environ", os.environ.copy())
    launcher._set_patience(7.0)
    told = get_env_vars_to_propagate()
    assert told["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] == "7.0"
    assert told["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "20.0"
    assert told["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] == "5"


def test_without_ray_the_body_runs_here_with_every_core():
    import torch

    torch.set_num_threads(1)
    calls = []
    local.launch(lambda rank, world_size, device: calls.append((rank, world_size, os.getpid())))
    assert calls == [(0, 1, os.getpid())]
    assert torch.get_num_threads() == len(os.sched_getaffinity(0))


def test_out_of_memory_counts_before_the_lost_peer_that_came_of_it():
    import ray.exceptions

    failures = {0: ray.exceptions.ActorDiedError(), 1: OutOfMemoryError("Rank 1 ran out of memory")}
    assert losses.explain(failures, "", RuntimeError(), 60.0) == losses.Loss(
        "Rank 1 ran out of memory", is_of_memory=True
    )
    killed = {0: PeerLostError("lost"), 1: ray.exceptions.OutOfMemoryError("low on memory")}
    assert losses.explain(killed, "", RuntimeError(), 60.0) == losses.Loss(
        "rank 1 was ended because its node ran out of memory", is_of_memory=True
    )


@pytest.mark.parametrize(
    ("num_ranks", "nodes", "room"),
    [
        (2, [Node(2)], Room(1, False)),
        (2, [Node(1), Node(3)], Room(1, False)),  # not 2: the first has room for none of 2
        (2, [Node(2), Node(3)], Room(2, False)),
        (3, [Node(1), Node(3)], Room(1, False)),
        (3, [Node(2)], None),
        (1, [], None),
        (2, [Node(8, 1), Node(8, 1)], Room(8, True)),
        (2, [Node(8, 2), Node(64)], Room(4, True)),
        (3, [Node(8, 2), Node(64)], Room(21, False)),
    ],
)
def test_every_rank_fits_on_its_node(num_ranks, nodes, room):
    assert room_for(num_ranks, nodes) == room

"""When a world is started again, and when no more: worlds that end as scripted, and losses one by one."""

import contextlib
import itertools
import threading

import pytest

from pipeline.errors import ClusterError
from pipeline.launch import cluster
from pipeline.launch import ray as launcher
from pipeline.launch.cluster import Node, Room
from pipeline.launch.losses import Loss
from pipeline.launch.restarts import Restarts

ROOM = cluster.Room(1, False)
DEATH = Loss("rank 1 died")
MEMORY = Loss("rank 0 ran out of memory", is_of_memory=True)
NOTICE = Loss("node 7 is being taken away", is_announced=True)


def test_each_loss_costs_a_restart_until_none_is_left():
    restarts = Restarts(2)
    assert restarts.spend(DEATH) == "rank 1 died; going on from the newest checkpoint, restart 1 of 2"
    assert restarts.spend(DEATH).endswith("restart 2 of 2")
    with pytest.raises(ClusterError, match=r"A rank was lost 3 times, the last time so: rank 1 died\. Nothing is gone"):
        restarts.spend(DEATH)


def test_none_at_all_may_be_allowed():
    with pytest.raises(ClusterError, match=r"A rank was lost 1 time, .* raise cluster\.max_failures"):
        Restarts(0).spend(DEATH)


def test_a_node_that_says_that_it_goes_costs_nothing():
    restarts = Restarts(0)
    for _ in range(3):
        assert restarts.spend(NOTICE).endswith("going on from the newest checkpoint")


@pytest.mark.parametrize("losses", [[MEMORY, MEMORY], [DEATH, MEMORY, MEMORY], [MEMORY, NOTICE, MEMORY]])
def test_memory_that_runs_out_twice_running_is_the_end(losses):
    restarts = Restarts(9)
    for loss in losses[:-1]:
        restarts.spend(loss)
    with pytest.raises(ClusterError, match="ran out of memory; it was so the last time too"):
        restarts.spend(losses[-1])


@pytest.mark.parametrize("losses", [[MEMORY, DEATH], [DEATH, MEMORY], [MEMORY, DEATH, MEMORY, DEATH]])
def test_memory_that_runs_out_now_and_then_is_a_loss_like_others(losses):
    restarts = Restarts(len(losses))
    assert [restarts.spend(loss)[-1] for loss in losses] == [str(len(losses))] * len(losses)


class Pause:
    """Remembers what was asked of it."""

    def __init__(self, is_to_go_on=True, wishes=()):
        """With what somebody else wishes at the start of each world, nothing after the last of these."""
        self.asked = threading.Event()
        self._is_to_go_on = is_to_go_on
        self._wishes = itertools.chain(wishes, itertools.repeat(False))

    def ask(self):
        self.asked.set()

    def lift(self):
        return self._is_to_go_on

    def is_asked(self):
        return next(self._wishes)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Launches worlds that end as a script says, under a clock that goes on by ten seconds with each; gives what was
    said and, of each start, the deadline for room."""

    def run(ends, *, address="here:1", wait_seconds=25.0, pause=None, has_no_room=False, worlds=(2,)):
        ends, said, deadlines, now = iter(ends), [], [], [100.0]

        def run_once(*_):
            now[0] += 10.0
            end = next(ends)
            if isinstance(end, Exception):
                raise end
            return end

        def wait_for_room(wanted, deadline, say, head, is_ended):
            deadlines.append(deadline - now[0])
            return None if has_no_room else (wanted[0], ROOM)

        monkeypatch.setattr(launcher, "_run_once", run_once)
        monkeypatch.setattr(launcher.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(cluster, "connected", contextlib.nullcontext)
        monkeypatch.setattr(cluster, "wait_for_room", wait_for_room)
        launcher.launch(
            print,
            address=address,
            worlds=worlds,
            max_failures=3,
            hang_seconds=1.0,
            wait_seconds=wait_seconds,
            folder=tmp_path,
            say=said.append,
            pause=pause or Pause(),
        )
        assert next(ends, "none") == "none"
        return said, deadlines

    return run


def test_room_is_waited_for_as_long_after_every_loss(run):
    said, deadlines = run([DEATH, NOTICE, DEATH, None])
    assert deadlines == [25.0] * 4
    assert [each.rpartition(", ")[2] for each in said[::2]] == ["restart 1 of 3", "restart 2 of 3"]
    assert said[1] == "node 7 is being taken away; going on from the newest checkpoint"


def test_nobody_waits_for_nodes_of_this_machines_own_cluster(run):
    assert run([DEATH, None], address=None)[1] == [0.0, 0.0]


@pytest.mark.parametrize("address", [None, "here:1"])
def test_cores_that_others_hold_are_waited_for_and_then_it_is_the_end(run, address):
    taken = launcher._NotPlacedError()
    assert run([taken, taken, None], address=address)[0] == ["2 free cores are not to be had; trying again"] * 2
    with pytest.raises(
        ClusterError, match=r"num_workers=2 ranks were not given cores within cluster\.wait_seconds=25: the"
    ):
        run([taken, taken, taken], address=address)


def test_where_the_cores_of_a_larger_world_are_not_free_a_smaller_one_is_started(run):
    taken = launcher._NotPlacedError()
    said, _ = run([taken, taken, DEATH, None], worlds=(4, 2, 1))
    assert said == [
        "training with 4 ranks",
        "4 free cores are not to be had; trying again",
        "training with 2 ranks",
        "2 free cores are not to be had; trying again",
        "training with 1 rank",
        "rank 1 died; going on from the newest checkpoint, restart 1 of 3",
        "training with 4 ranks",
    ]
    with pytest.raises(ClusterError, match=r"num_workers=\[1, 2\] ranks were not given cores within"):
        run([taken] * 4, worlds=(2, 1))


def test_who_wishes_the_end_is_not_made_to_wait_for_room(run):
    taken = launcher._NotPlacedError()
    assert run([DEATH], pause=Pause(wishes=[False, True])) == (
        ["rank 1 died; going on from the newest checkpoint, restart 1 of 3"],
        [25.0],
    )
    assert run([taken, taken], pause=Pause(wishes=[False, False, True]))[1] == [25.0, 15.0]
    assert run([], has_no_room=True) == ([], [25.0]), "none was wanted any more"


def test_a_pause_that_somebody_else_wished_for_too_is_the_end(run):
    assert run([NOTICE], pause=Pause(is_to_go_on=False))[0] == []


def test_ranks_pause_when_their_node_leaves_and_not_when_another_does(monkeypatch, tmp_path):
    (tmp_path / "rank-0").write_text("node-a")
    leaving = {"node-b"}
    asked_twice = threading.Event()

    def draining():
        if pause.asked.is_set() or rounds:
            asked_twice.set()
        rounds.append(1)
        return leaving

    rounds = []
    pause = Pause()
    monkeypatch.setattr(launcher, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(cluster, "draining_nodes", draining)
    with launcher._pausing_when_nodes_change(tmp_path, 1, ROOM, [], pause) as announced:
        assert asked_twice.wait(60)
        assert not pause.asked.is_set()
        assert announced() is None
        leaving.add("node-a")
        assert pause.asked.wait(60)
    assert announced() == Loss("the node node-a is being taken away", is_announced=True)


@pytest.mark.parametrize("has_gpus", [False, True])
def test_ranks_pause_once_there_has_been_room_for_more_of_them_for_a_while(monkeypatch, tmp_path, has_gpus):
    """Room that comes and goes does not count, and none does before every rank has said where it is."""
    clock, looks, passed = [0.0], [], threading.Event()
    little, much = [Node(1, has_gpus)], [Node(2, has_gpus), Node(1, has_gpus)]
    found = iter([much, little, much, much, much])

    def nodes_free_but_for(ranks, room):
        assert (ranks, room) == (["node-a", "node-a"], Room(1, has_gpus))
        clock[0] += 20.0
        looks.append(next(found))
        return looks[-1]

    def draining():
        draining.rounds += 1
        if draining.rounds == 3:
            passed.set()
        return set()

    draining.rounds = 0
    pause = Pause()
    monkeypatch.setattr(launcher, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(launcher, "_GROWTH_SECONDS", 30.0)
    monkeypatch.setattr(launcher.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cluster, "draining_nodes", draining)
    monkeypatch.setattr(cluster, "nodes_free_but_for", nodes_free_but_for)
    (tmp_path / "rank-0").write_text("node-a")
    worlds = [3] if not has_gpus else [3, 2]
    with launcher._pausing_when_nodes_change(tmp_path, 2, Room(1, has_gpus), worlds, pause) as announced:
        assert passed.wait(60)
        assert looks == []
        (tmp_path / "rank-1").write_text("node-a")
        assert pause.asked.wait(60)
    assert looks == [much, little, much, much, much]
    what = "there is room for 2 ranks" if has_gpus else "there is room for 3 ranks"
    assert announced() == Loss(what, is_announced=True)

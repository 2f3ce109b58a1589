"""Ranks as Ray Train workers: places the ranks, and starts them again after a loss.

Restarts are decided here and not by Ray Train, which retries a user's bug as patiently as a lost node. Where a rank
goes on from is the body's own business.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.launch import cluster
from pipeline.launch.body import Body, Pause
from pipeline.launch.head import Head
from pipeline.launch.losses import Loss, explain, first_lines
from pipeline.launch.orphans import end_with_the_node
from pipeline.launch.restarts import Restarts
from pipeline.wording import counted

_PLACING_SECONDS = 20.0
"""What Ray may take to place ranks for which there is room: more than it takes to notice that a node was lost."""

_PARTING_SECONDS = 5
"""What ranks may take to leave their process group when the world ends. A rank that says nothing takes all of it."""

_GROWTH_SECONDS = 30.0
"""How long there must have been room for more ranks. To start them costs about as much."""

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
"""What the head may take to answer; one that was lost does not."""


class _NotPlacedError(Exception):
    """The room that there was is gone."""


def launch(
    body: Body,
    *,
    address: str | None,
    worlds: Sequence[int],
    max_failures: int,
    hang_seconds: float,
    wait_seconds: float,
    folder: Path,
    say: Callable[[str], None],
    pause: Pause,
) -> None:
    """Runs ranks to their end, as many as the first of `worlds`, which fall, for which the cluster has room; `folder`
    takes Ray Train's own files.

    A rank that was lost, or that said nothing for `hang_seconds`, costs one of `max_failures` and starts the world
    again, as soon as the cluster has room for the smallest, and has it free: within `wait_seconds`. A node that
    announces its end costs nothing: the ranks are paused and start elsewhere. Neither does room for a larger world.
    Who asked for the end is not made to wait for room. Raises the rank's own ConvoyError, TrainingError with the
    traceback of any other exception, and ClusterError when ranks cannot be placed, are lost too often, or run out of
    memory twice.
    """
    joined = cluster.to_join(address)
    restarts = Restarts(max_failures)
    wanted = worlds
    ended = time.monotonic()
    while not pause.is_asked():
        # Nobody adds nodes to a cluster of this machine's own.
        deadline = ended + (wait_seconds if joined else 0.0)
        # A connection of its own for each start: what the last world held, even one whose controller died, goes with
        # the connection, so that the next finds every core free.
        with cluster.connected(joined) as head:
            world = cluster.wait_for_room(wanted, deadline, say, head, pause.is_asked)
            if world is None:
                return
            num_ranks, room = world
            if len(worlds) > 1:
                say(f"training with {counted(num_ranks, 'rank')}")
            try:
                loss = _run_once(body, num_ranks, worlds, room, head, hang_seconds, folder, pause)
            except _NotPlacedError as exc:
                wanted = [smaller for smaller in worlds if smaller < num_ranks] or worlds
                if wanted is worlds and time.monotonic() >= ended + wait_seconds:
                    raise cluster.not_free(worlds, wait_seconds) from exc
                say(f"{num_ranks} free cores are not to be had; trying again")
                continue
        if loss is None or (loss.is_announced and not pause.lift()):
            return
        say(restarts.spend(loss))
        wanted = worlds
        ended = time.monotonic()


def _run_once(
    body: Body,
    num_ranks: int,
    worlds: Sequence[int],
    room: cluster.Room,
    head: Head,
    hang_seconds: float,
    folder: Path,
    pause: Pause,
) -> Loss | None:
    """None when all ranks finished; what was lost when the world may be started again."""
    from ray.exceptions import RayActorError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2.api.exceptions import PreemptionError, WorkerGroupError

    folder.mkdir(parents=True, exist_ok=True)
    _set_patience(hang_seconds)
    # A name of its own for each start: Ray Train would resume whatever lies under an old one.
    name = f"start-{len(list(folder.iterdir())) + 1:04d}"
    places = folder / name / "nodes"
    places.mkdir(parents=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"body": body, "num_threads": room.num_cpus, "places": str(places.absolute())},
        scaling_config=ScalingConfig(
            num_workers=num_ranks,
            use_gpu=room.use_gpu,
            resources_per_worker={"CPU": room.num_cpus, "GPU": int(room.use_gpu)},
        ),
        torch_config=TorchConfig(timeout_s=math.ceil(hang_seconds)),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder.absolute()),
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    larger = [world for world in worlds if world > num_ranks]
    with _pausing_when_nodes_change(places, num_ranks, room, larger, pause) as announced:
        try:
            head.watched(trainer.fit)
        except WorkerGroupError as exc:
            loss = explain(exc.worker_failures, str(exc), exc, hang_seconds)
            return announced() or loss
        except PreemptionError as exc:
            return Loss(first_lines(exc), is_announced=True)
        except TrainingFailedError as exc:
            if isinstance(getattr(exc, "controller_failure", None), WorkerGroupStartupTimeoutError):
                raise _NotPlacedError from exc
            return Loss(f"Ray Train stopped ({first_lines(exc)})")
        except RayActorError as exc:  # its controller's, which is placed on the head's node
            head.insist()
            return announced() or Loss(f"Ray Train was lost ({first_lines(exc)})")
        return announced()


def _set_patience(hang_seconds: float) -> None:
    """What Ray Train's controller reads, wherever it runs."""
    from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(hang_seconds)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(_PLACING_SECONDS)
    os.environ[TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S] = str(_PARTING_SECONDS)  # half a minute by default
    ENV_VARS_TO_PROPAGATE.add(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S)  # of its own it takes only the others along


@contextlib.contextmanager
def _pausing_when_nodes_change(
    places: Path, num_ranks: int, room: cluster.Room, larger: Sequence[int], pause: Pause
) -> Iterator[Callable[[], Loss | None]]:
    """While it lasts, ranks are asked to pause once one of their nodes is about to be taken away, or once there has
    been room for one of the `larger` worlds for a while.

    Gives a function that says whether that was so.
    """
    ended = threading.Event()
    reasons: list[str] = []

    def watch() -> None:
        growing_since: float | None = None
        while not ended.wait(_POLL_SECONDS):
            ours = [path.read_text() for path in places.iterdir()]
            reasons.extend(
                f"the node {node[:12]} is being taken away" for node in sorted(set(ours) & cluster.draining_nodes())
            )
            world = None
            if larger and len(ours) == num_ranks:
                world = cluster.largest_world(larger, cluster.nodes_free_but_for(ours, room))
            if world is None or room.use_gpu > world[1].use_gpu:
                growing_since = None
            elif growing_since is None:
                growing_since = time.monotonic()
            elif time.monotonic() - growing_since >= _GROWTH_SECONDS:
                reasons.append(f"there is room for {counted(world[0], 'rank')}")
            if reasons:
                pause.ask()
                return

    def announced() -> Loss | None:
        return Loss(reasons[0], is_announced=True) if reasons else None

    thread = threading.Thread(target=watch, name="convoy-nodes", daemon=True)
    thread.start()
    try:
        yield announced
    finally:
        ended.set()
        thread.join(_ANSWER_SECONDS)


def _worker(config: dict) -> None:
    """The body inside a Ray Train worker. The world of one trains without a process group of its own."""
    import ray
    import ray.train
    import ray.train.torch
    import torch

    end_with_the_node()
    torch.set_num_threads(config["num_threads"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    # Written aside: the driver must not read half an id.
    partial = Path(config["places"]).parent / f".node-of-{rank}"
    partial.write_text(ray.get_runtime_context().get_node_id())
    partial.replace(Path(config["places"]) / f"rank-{rank}")
    config["body"](rank, context.get_world_size(), str(ray.train.torch.get_device()))

"""A Ray cluster, started here or joined, and what room it has for ranks. A rank needs cores of one node.

Nodes come and go: one that is being drained, because it is about to be taken away, has no room.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import ClusterError
from pipeline.launch.head import Head, knock

ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else workers of a driver under `uv run` start through uv
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else workers print everything twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

_OBJECT_STORE_BYTES = 100 * 1024**2
"""Nothing of ours travels through the object store; the default takes a third of the memory."""

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Node:
    num_cpus: int
    num_gpus: int = 0


@dataclass(frozen=True)
class Room:
    """What each rank is given."""

    num_cpus: int
    use_gpu: bool


def room_for(num_ranks: int, nodes: Sequence[Node]) -> Room | None:
    """The most cores that every rank can have, a GPU each where there are enough; None when they do not fit."""
    for use_gpu in (True, False):
        for num_cpus in range(max((node.num_cpus for node in nodes), default=0), 0, -1):
            cores = (node.num_cpus // num_cpus for node in nodes)
            gpus = (node.num_gpus if use_gpu else num_ranks for node in nodes)
            if sum(map(min, cores, gpus)) >= num_ranks:
                return Room(num_cpus, use_gpu)
    return None


def largest_world(worlds: Sequence[int], nodes: Sequence[Node]) -> tuple[int, Room] | None:
    """The first of these numbers of ranks that fits, with a GPU for each rank before one without; `worlds` fall. None
    when none does."""
    has_gpus, without = any(node.num_gpus for node in nodes), None
    for num_ranks in worlds:
        room = room_for(num_ranks, nodes)
        if room and (room.use_gpu or not has_gpus):
            return num_ranks, room
        if room and without is None:
            without = num_ranks, room
    return without


def inside_job() -> bool:
    """Whether this process belongs to a Ray job, whose cluster is then the one meant."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def to_join(address: str | None) -> str | None:
    """The address of the cluster that is meant; None for one of this machine's own."""
    return address or (os.environ.get("RAY_ADDRESS") if inside_job() else None)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Head]:
    """Ray, joined at an address or started here; what was started here ends here. Its head is watched meanwhile.

    Raises ClusterError.
    """
    os.environ.update(ENVIRONMENT)
    import ray

    if address:
        look_for(address)
    try:
        with _keeping_the_answer_to_sigterm():
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                context = ray.init(
                    address="local",  # said aloud, because a stale file of a dead cluster would be followed otherwise
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    num_cpus=len(os.sched_getaffinity(0)),
                )
    except Exception as exc:  # Ray raises that very class when a machine is too busy for its start
        raise ClusterError(
            f"Ray does not start on this machine ({exc}); set cluster.num_workers: 0 to train without it."
            if address is None
            else f"The Ray cluster at {address} answers but cannot be joined ({exc}); is this machine one of its "
            "nodes, with the same versions of Ray and Python?"
        ) from exc
    with Head(address or context.address_info["gcs_address"]) as head:
        try:
            yield head
        finally:
            if head.answers():  # else Ray would wait for it until it ends this process
                ray.shutdown()


@contextlib.contextmanager
def _keeping_the_answer_to_sigterm() -> Iterator[None]:
    """Ray would end this process at once, with another exit code, where a run may want a checkpoint first."""
    answer = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, answer)


def look_for(address: str) -> None:
    """Raises ClusterError when nothing listens; Ray itself would ask for five minutes."""
    try:
        knock(address)
    except (OSError, ValueError) as exc:
        raise ClusterError(
            f"cluster.address={address} cannot be reached ({exc}); it is the host:port that `ray start --head` prints. "
            "Start it, or set cluster.address: null to use this machine."
        ) from exc


def nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to, but for those that are lost or about to be."""
    import ray

    leaving = draining_nodes()
    return [
        Node(int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def nodes_free_but_for(ranks: Sequence[str], room: Room) -> list[Node]:
    """As `nodes`, of what nobody holds but ranks on nodes of these ids, each with this room."""
    import ray
    import ray._private.state

    leaving, free = draining_nodes(), ray._private.state.available_resources_per_node()
    found = []
    for node_id in (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving):
        of_node, num_ours = free.get(node_id, {}), ranks.count(node_id)
        num_cpus = int(of_node.get("CPU", 0)) + num_ours * room.num_cpus
        found.append(Node(num_cpus, int(of_node.get("GPU", 0)) + num_ours * room.use_gpu))
    return found


def draining_nodes() -> set[str]:
    """Ids of the nodes that somebody has asked to be emptied, as a cloud does before it takes one away."""
    import ray._private.state

    return set(ray._private.state.state.get_draining_nodes())


def no_room(worlds: Sequence[int], nodes: Sequence[Node]) -> ClusterError:
    """What is said of numbers of ranks of which none fits on the nodes."""
    return ClusterError(
        f"{_lacking(worlds, nodes)}; use {max(sum(node.num_cpus for node in nodes), 1)} or less, or add nodes. "
        "Nothing is gone: the same command then goes on from the newest checkpoint. cluster.wait_seconds says how long "
        "to wait for nodes."
    )


def not_free(worlds: Sequence[int], wait_seconds: float) -> ClusterError:
    """What is said of ranks for which there are cores that somebody else holds."""
    return ClusterError(
        f"{_asked_for(worlds)} were not given cores within cluster.wait_seconds={wait_seconds:g}: the cluster has them "
        "and another job holds them, as `ray status` shows. Nothing is gone: run the same command again when they are "
        "free."
    )


def _lacking(worlds: Sequence[int], nodes: Sequence[Node]) -> str:
    num_cpus = sum(node.num_cpus for node in nodes)
    return f"{_asked_for(worlds)} need a core each and the cluster has {num_cpus}"


def _asked_for(worlds: Sequence[int]) -> str:
    return f"cluster.num_workers={worlds[0] if len(worlds) == 1 else [worlds[-1], worlds[0]]} ranks"


def wait_for_room(
    worlds: Sequence[int], deadline: float, say: Callable[[str], None], head: Head, is_ended: Callable[[], bool]
) -> tuple[int, Room] | None:
    """The largest of the worlds, as soon as there is room for one; `deadline` is on the monotonic clock. None once
    nobody wants it.

    Raises ClusterError when there is none by then, or no head to ask.
    """
    said = False
    while not is_ended():
        head.await_answer()
        found = nodes()
        world = largest_world(worlds, found)
        if world:
            return world
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise no_room(worlds, found)
        if not said:
            say(f"{_lacking(worlds, found)}; waiting up to {seconds:.0f} s for nodes")
            said = True
        threading.Event().wait(min(_POLL_SECONDS, seconds))
    return None

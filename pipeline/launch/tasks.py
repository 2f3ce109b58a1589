"""Tasks over the nodes of a Ray cluster: results in the order of the tasks, a bounded number of them in flight.

A task that is lost with its process or its node is done again, a bounded number of times; what a task raises comes out
as it was, and nothing is done again. Tasks leave their work in files that every node sees: what travels is small.
"""

import contextlib
import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.errors import ClusterError, ConvoyError
from pipeline.launch import cluster
from pipeline.launch.losses import first_lines
from pipeline.launch.orphans import end_with_the_node

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 120.0
"""What a node may take to start a process and to look at a few files."""


@dataclass
class _Flight:
    """A task on its way."""

    task: Any
    reference: Any
    num_lost: int = 0
    is_done: bool = False
    result: Any = None


class ClusterWorkers:
    """Tasks of one core each, of less where `num_workers` are more than there are cores; null for one per core.

    Alive inside a `with`, which ends them. `check` is called on every node before any task, and in every process before
    its first one, for nodes that join later: it raises ConvoyError with what keeps that machine from helping.
    """

    def __init__(
        self,
        address: str,
        num_workers: int | None,
        check: Callable[[], None],
        *,
        max_failures: int,
        wait_seconds: float,
        say: Callable[[str], None],
    ):
        self._address, self._num_workers, self._check = address, num_workers, check
        self._max_failures, self._wait_seconds, self._say = max_failures, wait_seconds, say
        self._name = uuid.uuid4().hex

    def __enter__(self) -> "ClusterWorkers":
        """Raises ClusterError when the cluster is out of reach, or some of its nodes cannot help."""
        with contextlib.ExitStack() as stack:
            self._head = stack.enter_context(cluster.connected(self._address))
            self._wait_for_cores()
            self._check_nodes()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)

    def map(
        self, function: Callable[[Task, Advance], Result], tasks: Iterable[Task], advance: Advance
    ) -> Iterator[Result]:
        """`function(task, advance)` for each task, in order. `advance` is given a task's work when the task is done.

        Raises what the function raises, and ClusterError when one task was lost too often or no core is left.
        """
        iterator, pending, exhausted = iter(tasks), deque(), False
        while not exhausted or pending:
            while not exhausted and len(pending) < self._num_in_flight():
                try:
                    task = next(iterator)
                except StopIteration:
                    exhausted = True
                else:
                    pending.append(_Flight(task, self._submit(function, task)))
            self._land(pending, function, advance)
            while pending and pending[0].is_done:
                yield pending.popleft().result

    def _num_cores(self) -> float:
        import ray

        self._head.await_answer()
        return ray.cluster_resources().get("CPU", 0.0)

    def _num_in_flight(self) -> int:
        """Without a wish, twice the cores, so that none waits for its next task. None, for a moment, makes one."""
        return self._num_workers or max(1, 2 * int(self._num_cores()))

    def _submit(self, function: Callable, task: object) -> object:
        import ray

        self._head.await_answer()
        cores = 1.0
        if self._num_workers and self._num_cores():
            cores = min(1.0, math.floor(10_000 * self._num_cores() / self._num_workers) / 10_000)  # Ray's least part
        remote = ray.remote(num_cpus=cores, max_retries=0)(_run)
        return remote.remote(self._name, self._check, function, task)

    def _land(self, pending: deque[_Flight], function: Callable, advance: Advance) -> None:
        """Waits until a task is done, or a moment."""
        import ray

        flying = {flight.reference: flight for flight in pending if not flight.is_done}
        if not flying:
            return
        done, _ = ray.wait(list(flying), timeout=_POLL_SECONDS)
        if not done:
            self._wait_for_cores()
        for reference in done:
            flight = flying[reference]
            try:
                flight.result, num_done = ray.get(reference)
            except ray.exceptions.RayTaskError as exc:
                raise exc.cause from exc
            except ray.exceptions.RuntimeEnvSetupError as exc:
                raise ClusterError(f"A node cannot run tasks of this project ({first_lines(exc)}).") from exc
            except ray.exceptions.RayError as exc:
                self._count_loss(flight, exc)
                flight.reference = self._submit(function, flight.task)
            else:
                flight.is_done = True
                advance(num_done)

    def _count_loss(self, flight: _Flight, exc: Exception) -> None:
        flight.num_lost += 1
        if flight.num_lost > self._max_failures:
            raise ClusterError(
                f"A piece of the work was lost {flight.num_lost} times, the last time so: {first_lines(exc)}. What was "
                "finished stays: run the same command to go on. Where memory ran out, lower shards.num_workers; "
                "cluster.max_failures says how often to try."
            ) from exc
        self._say(f"a piece of the work was lost ({first_lines(exc)}); doing it again")

    def _wait_for_cores(self) -> None:
        """Comes back at once where there are some. Raises ClusterError when there were none for too long."""
        deadline = None
        while not self._num_cores():
            now = time.monotonic()
            if deadline is None:
                deadline = now + self._wait_seconds
                self._say(f"the cluster has no core; waiting up to {self._wait_seconds:.0f} s for nodes")
            if now >= deadline:
                raise ClusterError(
                    f"The Ray cluster at {self._address} has no core, after cluster.wait_seconds="
                    f"{self._wait_seconds:g}. What was finished stays: add nodes and run the same command, or set "
                    "cluster.address: null to use this machine alone."
                )
            threading.Event().wait(min(_POLL_SECONDS, deadline - now))

    def _check_nodes(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        asked = [
            ray.remote(num_cpus=0, max_retries=0)(_examine)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(self._check)
            for node in nodes
        ]
        deadline, problems = time.monotonic() + _ANSWER_SECONDS, []
        for node, reference in zip(nodes, asked, strict=True):
            try:
                problem = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
            except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
                continue  # it went meanwhile, and no task will go there
            except ray.exceptions.GetTimeoutError:
                problem = f"it did not answer within {_ANSWER_SECONDS:.0f} s"
            except ray.exceptions.RayError as exc:
                problem = first_lines(exc.cause if isinstance(exc, ray.exceptions.RayTaskError) else exc)
            if problem is not None:
                problems.append(f"\n  {_named(node['NodeManagerAddress'], node['NodeID'])}: {problem}")
        if problems:
            raise ClusterError(
                f"{len(problems)} of the {len(nodes)} nodes of the cluster cannot help; mend that, or set "
                f"cluster.address: null to use this machine alone:{''.join(problems)}"
            )


# What runs on the nodes.

_checked_for: str | None = None  # whose check this process has passed


def _run(name: str, check: Callable[[], None], function: Callable[[Task, Advance], Result], task: Task) -> Any:
    """The result, and how much was done."""
    import ray

    global _checked_for
    if _checked_for != name:
        end_with_the_node()
        problem = _examine(check)
        if problem is not None:
            where = _named(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())
            raise ClusterError(f"{where} came later and cannot help: {problem}")
        _checked_for = name
    done: list[int] = []
    return function(task, done.append), sum(done)


def _examine(check: Callable[[], None]) -> str | None:
    """What keeps this process from helping."""
    try:
        check()
    except ConvoyError as exc:
        return str(exc)
    return None


def _named(address: str, node_id: str) -> str:
    return f"node {address} ({node_id[:12]})"

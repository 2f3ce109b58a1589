"""Tasks over workers: results in the order of the tasks, a bounded number of them in flight, progress as it happens.

Here the workers are processes of this machine; with one worker everything runs in the calling process. A worker ends
when its parent does, however that ends.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from pipeline.errors import ConvoyError
from pipeline.heap import keep_freed

Task = TypeVar("Task")
Result = TypeVar("Result")
Advance = Callable[[int], None]

POLL_SECONDS = 0.2
PRELOADED = "pipeline.sharding.write"


class Workers(Protocol):
    """Whoever does tasks: processes here, or tasks on other machines that see the same files."""

    def map(
        self, function: Callable[[Task, Advance], Result], tasks: Iterable[Task], advance: Advance
    ) -> Iterator[Result]:
        """`function(task, advance)` for each task, in order. `advance` is given the work done, in any process.

        Raises what the function raises, and ConvoyError when a worker was lost for good.
        """


def start_server() -> None:
    """Starts the process that workers are forked from, if there is none: it imports what they need while the caller
    goes on.

    A fork of the caller would copy the locks of its threads (Arrow's) in whatever state they are.
    """
    # Imported once, before the first fork; its modules start no threads and open nothing.
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOADED])
    multiprocessing.forkserver.ensure_running()


class LocalWorkers:
    """`num_workers` processes, alive inside a `with`; null means one per core that this process may use."""

    def __init__(self, num_workers: int | None):
        self.num_workers = num_workers or len(os.sched_getaffinity(0))

    def __enter__(self) -> "LocalWorkers":
        if self.num_workers > 1:
            start_server()
            context = multiprocessing.get_context("forkserver")
            self._num_done, self._is_stopped = context.Value("q", 0), context.Event()
            # The server that is forked may have been started under other addresses and secrets.
            handed_over = (self._num_done, self._is_stopped, dict(os.environ))
            self._executor = ProcessPoolExecutor(self.num_workers, context, initializer=_start, initargs=handed_over)
        return self

    def __exit__(self, *_: object) -> None:
        if self.num_workers > 1:
            self._is_stopped.set()
            self._executor.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Task, Advance], Result], tasks: Iterable[Task], advance: Advance
    ) -> Iterator[Result]:
        """As Workers has it: ConvoyError when a worker was killed."""
        if self.num_workers == 1:
            for task in tasks:
                yield function(task, advance)
            return
        iterator, pending, num_reported = iter(tasks), deque(), self._num_done.value
        exhausted = False
        while not exhausted or pending:
            while not exhausted and len(pending) < 2 * self.num_workers:
                try:
                    task = next(iterator)
                except StopIteration:
                    exhausted = True
                else:
                    pending.append(self._submit(function, task))
            while pending and not pending[0].done():
                _wait(pending[0])
                num_done = self._num_done.value
                advance(num_done - num_reported)
                num_reported = num_done
            if pending:
                yield _result(pending.popleft())
        advance(self._num_done.value - num_reported)

    def _submit(self, function: Callable[[Task, Advance], Result], task: Task) -> Future[Result]:
        try:
            return self._executor.submit(_run, function, task)
        except BrokenProcessPool as exc:
            raise _killed() from exc


class _StoppedError(Exception):
    """Another task failed: what this one makes is not wanted any more."""


def _wait(future: Future) -> None:
    try:
        future.exception(timeout=POLL_SECONDS)
    except TimeoutError:
        return


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except BrokenProcessPool as exc:
        raise _killed() from exc


def _killed() -> ConvoyError:
    return ConvoyError(
        "A sharding process was killed, most often because the memory ran out; lower shards.num_workers and run the "
        "same command again."
    )


_shared: tuple = ()  # of a worker process: what its parent handed over at the start


def _start(num_done: object, is_stopped: object, environment: dict[str, str]) -> None:
    global _shared
    _shared = (num_done, is_stopped)
    os.environ.clear()
    os.environ.update(environment)
    keep_freed()  # the next image gets the memory of the last
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run(function: Callable[[Task, Advance], Result], task: Task) -> Result:
    return function(task, _advance)


def _advance(num: int) -> None:
    num_done, is_stopped = _shared
    if is_stopped.is_set():
        raise _StoppedError
    with num_done.get_lock():
        num_done.value += num

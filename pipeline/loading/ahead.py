"""The shards of the coming steps, made ready in the background in the order in which they will be needed.

Ready means verified and, for shards at an address, fetched and held in this machine's cache until the last step in
sight that uses them is over. What is not ready in time is made ready by whoever reads it; this only saves the waiting.
"""

import contextlib
import heapq
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.artifacts import Shard
from pipeline.errors import ConvoyError, ParamsError
from pipeline.loading.order import Order, Steps
from pipeline.loading.shelf import Shelf

NUM_FETCHERS = 4
"""Shards that are fetched side by side; a store answers one request slower than a network card takes."""

VERIFY_AHEAD_BYTES = 1024**3
"""Shards on this machine's disk that are verified ahead; they are in the page cache still when they are read."""

MIN_STEPS_AHEAD, MAX_STEPS_AHEAD = 8, 20_000
"""Steps that are looked at however many bytes they need, and however few."""

ROOM_SECONDS = 0.5
"""Between looks for room in a cache that others fill as well."""

NPY_HEADER_BYTES = 1024
"""More than numpy writes before a table."""

_JOIN_SECONDS = 5.0


class Lookahead:
    """Background threads over the steps' needs, from the next step on; `advance` after each step."""

    def __init__(
        self, shelf: Shelf, shards: Sequence[Shard], needs: Iterator[np.ndarray], let_go: Callable[[int], None]
    ):
        """`needs` are the distinct shards of each step to come; `let_go` hears of a shard at an address that no step in
        sight uses any more."""
        self._shelf, self._shards, self._needs, self._let_go = shelf, shards, needs, let_go
        self._steps: deque[list[int]] = deque()
        """Needs of the steps in sight that are not over."""
        self._uses: Counter[int] = Counter()
        """Of each shard, in those steps."""
        self._waiting: list[tuple[int, int]] = []
        """A heap: shards by their turn, which is the order of first need. Some are of no use any more."""
        self._turns: dict[int, int] = {}
        self._ready: set[int] = set()
        self._begun: set[int] = set()
        """Shards on disk that a step has used: they count no more as ahead."""
        self._num_turns = self._ahead_bytes = 0
        self._taken_bytes = 0
        """Of shards at an address that are ready or that a thread is busy with."""
        self._exhausted = self._closed = False
        self._changed = threading.Condition()
        self._stack = contextlib.ExitStack()
        self._share_bytes = self._stack.enter_context(shelf.sharing())
        self._threads = [
            threading.Thread(target=self._work, name="convoy-ahead", daemon=True)
            for _ in range(NUM_FETCHERS if shelf.is_remote else 1)
        ]
        for thread in self._threads:
            thread.start()

    def advance(self) -> None:
        """One step is over: what no step in sight uses any more may go."""
        with self._changed:
            if self._is_all_known() and not self._shelf.is_remote:
                return
            if not self._steps:
                self._plan_step()  # the reader is faster than the threads
            over = self._steps.popleft() if self._steps else []
            done = [shard for shard in over if self._is_last_use(shard)]
            were_ready = self._ready.intersection(done)
            self._ready.difference_update(done)
            self._taken_bytes -= sum(map(self._room_of, were_ready))
            self._changed.notify_all()
        for shard in done:
            self._let_go(shard)
            if shard in were_ready:
                self._shelf.release(self._shards[shard])

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        while self._ready:
            self._shelf.release(self._shards[self._ready.pop()])
        self._stack.close()

    def _is_last_use(self, shard: int) -> bool:
        """Takes one use away. A shard on disk is never done with: it stays verified."""
        self._uses[shard] -= 1
        if not self._shelf.is_remote:
            if shard not in self._begun:
                self._begun.add(shard)
                self._ahead_bytes -= self._shards[shard].num_bytes
            return False
        if self._uses[shard]:
            return False
        del self._uses[shard]
        self._ahead_bytes -= self._shards[shard].num_bytes
        return True

    def _plan_step(self) -> None:
        """Takes the next step into sight."""
        step = next(self._needs, None)
        if step is None:
            self._exhausted = True
            return
        self._steps.append(step.tolist())
        for shard in self._steps[-1]:
            if shard not in self._uses:
                self._turns[shard] = self._num_turns = self._num_turns + 1
                heapq.heappush(self._waiting, (self._turns[shard], shard))
                self._ahead_bytes += self._shards[shard].num_bytes
            self._uses[shard] += 1

    def _may_plan(self) -> bool:
        if self._exhausted or len(self._steps) < MIN_STEPS_AHEAD:
            return not self._exhausted
        if self._is_all_known() or len(self._steps) >= MAX_STEPS_AHEAD:
            return False
        budget_bytes = self._share_bytes() if self._shelf.is_remote else VERIFY_AHEAD_BYTES
        return budget_bytes is None or self._ahead_bytes < budget_bytes

    def _is_all_known(self) -> bool:
        """Whether more steps would bring no more shards into sight."""
        return len(self._uses) == len(self._shards)

    def _has_room(self, shard: int) -> bool:
        """Whether this rank's share of the cache takes one more. Room is taken in the order of need: a shard that is
        needed late would otherwise, fetched by a quicker thread, leave none for one that is needed now."""
        share_bytes = self._share_bytes() if self._taken_bytes else None
        return share_bytes is None or self._taken_bytes + self._room_of(shard) <= share_bytes

    def _room_of(self, shard: int) -> int:
        """Bytes of the cache, for the tar and its table; a shard on disk takes none."""
        if not self._shelf.is_remote:
            return 0
        entry = self._shards[shard]
        return entry.num_bytes + entry.num_stored * self._shelf.row_bytes + NPY_HEADER_BYTES

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._waiting:
                    if self._may_plan():
                        self._plan_step()  # and lets go of the lock before the next
                    else:
                        self._changed.wait()
                    continue
                turn, shard = self._waiting[0]
                is_wanted = turn == self._turns[shard] and shard in self._uses
                if is_wanted and not self._has_room(shard):
                    self._changed.wait(ROOM_SECONDS)
                    continue
                heapq.heappop(self._waiting)
                if not is_wanted:
                    continue
                self._taken_bytes += self._room_of(shard)
            try:
                path = self._shelf.hold(self._shards[shard], urgent=False)
            except (ConvoyError, OSError):  # whoever reads the shard meets the same and tells it
                with self._changed:
                    self._taken_bytes -= self._room_of(shard)
                continue
            self._put_away(shard, path is not None)

    def _put_away(self, shard: int, is_ready: bool) -> None:
        """What became of a shard that a thread was busy with."""
        let_go = False
        with self._changed:
            if not self._shelf.is_remote:
                return
            is_wanted = shard in self._uses and shard not in self._ready and not self._closed
            if is_ready and is_wanted:
                self._ready.add(shard)
                return
            self._taken_bytes -= self._room_of(shard)
            if is_ready:
                let_go = True
            else:
                heapq.heappush(self._waiting, (self._turns[shard], shard))
                self._changed.wait(ROOM_SECONDS)
        if let_go:
            self._shelf.release(self._shards[shard])


def check_cache(steps: Steps, shards: Sequence[Shard], cache_bytes: int | None, world_size: int) -> None:
    """Raises ParamsError when the cache cannot hold what one rank shuffles together: every shard would be fetched
    again and again."""
    sizes = np.array([shard.num_bytes for shard in shards], np.int64)
    if cache_bytes is None or sizes.sum() <= cache_bytes:
        return
    needed, how = int(sizes.sum()), "loading.sampling: balanced, which draws from all of them"
    if isinstance(steps, Order):
        needed = window_bytes(steps, sizes, -(-steps.lanes // world_size))
        how = f"windows of {steps.window} samples in {steps.lanes} lanes"
    if needed > cache_bytes:
        raise ParamsError(
            f"loading.cache_bytes={cache_bytes} cannot hold the shards that are shuffled together, {needed} bytes for "
            f"{how}: each would be fetched again and again. Raise it, or lower loading.shuffle_window_samples or "
            "loading.lanes."
        )


def window_bytes(order: Order, sizes_bytes: np.ndarray, lanes: int) -> int:
    """The most bytes of shards that the same window of `lanes` neighbouring lanes lies in."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes_bytes[order.shard_permutation])])
    samples_per_lane = order.num_samples // order.lanes
    first = np.arange(0, samples_per_lane, order.window)
    last = np.minimum(first + order.window, samples_per_lane) - 1
    per_lane = np.empty((order.lanes, len(first)), np.int64)
    for lane in range(order.lanes):
        slots = [
            np.searchsorted(order.permuted_starts, lane * samples_per_lane + places, side="right") - 1
            for places in (first, last)
        ]
        per_lane[lane] = ends[slots[1] + 1] - ends[slots[0]]
    groups = np.lib.stride_tricks.sliding_window_view(per_lane, min(lanes, order.lanes), axis=0)
    return int(groups.sum(-1).max())

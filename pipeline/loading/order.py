"""Which sample is used in which step: one pure function of (seed, epoch, index digest, global batch, lanes, window).

It never looks at ranks, loader threads or machines: those only take their slice of a step. A sample is named by its
number: its place in the concatenation of the split's shards, in the index's order. Memory is O(shards); a step is
computed on its own, so resuming costs the same anywhere.
"""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ParamsError
from pipeline.loading.keyed import key_of, permute

REMOTE_WINDOW_SAMPLES = 16_384
"""Samples that are shuffled together where shards are fetched and nothing else is said: those of four or five shards of
the usual size. Sharding has shuffled once, so batches are as mixed as by a full shuffle (benchmarks/order.py)."""


@dataclass(frozen=True)
class Steps(abc.ABC):
    """The steps of one epoch, whatever decides them."""

    global_batch_size: int
    num_steps: int
    """Whole global batches; the remainder is left out of this epoch, other samples in each epoch."""
    key: int
    """Of the epoch."""

    @abc.abstractmethod
    def step(self, step: int) -> np.ndarray:
        """Sample numbers of one step, int64 [global_batch_size]. 0 <= step < num_steps."""

    def turns(self, step: int) -> np.ndarray:
        """Tells the draws of a sample in one epoch apart, int64 [global_batch_size]: each has a number of its own."""
        return np.zeros(self.global_batch_size, np.int64)

    def rank_step(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """The rank's slice of a step, int64 [global_batch_size / world_size]."""
        return self._slice(self.step(step), rank, world_size)

    def rank_turns(self, step: int, rank: int, world_size: int) -> np.ndarray:
        """The rank's slice of a step's turns."""
        return self._slice(self.turns(step), rank, world_size)

    def _slice(self, of_step: np.ndarray, rank: int, world_size: int) -> np.ndarray:
        size = self.global_batch_size // world_size
        return of_step[rank * size : (rank + 1) * size]


@dataclass(frozen=True)
class Order(Steps):
    """Every sample at most once, shard by shard: what `order` decides."""

    lanes: int
    num_samples: int
    window: int
    """Samples shuffled together, at most a lane."""
    shard_starts: np.ndarray
    """[num_shards + 1] first sample number of each shard, index order."""
    shard_permutation: np.ndarray
    """[num_shards] shards in this epoch's order."""
    permuted_starts: np.ndarray
    """[num_shards + 1] first place of each permuted shard in the epoch's concatenation."""

    def step(self, step: int) -> np.ndarray:
        """Sample numbers of one step, lane by lane."""
        samples_per_lane = self.num_samples // self.lanes
        draw = self.global_batch_size // self.lanes
        within = np.arange(step * draw, (step + 1) * draw, dtype=np.int64)
        places = np.concatenate(
            [lane * samples_per_lane + self._shuffle(within, lane, samples_per_lane) for lane in range(self.lanes)]
        )
        return self._numbers(places)

    def _shuffle(self, within: np.ndarray, lane: int, samples_per_lane: int) -> np.ndarray:
        """Places inside a lane after its windows were shuffled; the last window may be short."""
        out = np.empty_like(within)
        windows = within // self.window
        for window in np.unique(windows):
            first = int(window) * self.window
            size = min(self.window, samples_per_lane - first)
            inside = windows == window
            out[inside] = first + permute(within[inside] - first, size, key_of(self.key, lane, int(window)))
        return out

    def _numbers(self, places: np.ndarray) -> np.ndarray:
        """Sample numbers from places in the epoch's concatenation of permuted shards."""
        slots = np.searchsorted(self.permuted_starts, places, side="right") - 1
        return self.shard_starts[self.shard_permutation[slots]] + places - self.permuted_starts[slots]


def epoch_key(*, seed: int, epoch: int, digest: str) -> int:
    """Of an epoch: what its order and the draws of its augmentation follow from, whatever the sizes."""
    return key_of(seed, epoch, digest)


def order(
    shard_sizes: Sequence[int],
    *,
    seed: int,
    epoch: int,
    digest: str,
    global_batch_size: int,
    lanes: int = 1,
    window: int | None = None,
) -> Order:
    """The order of one epoch over shards of these sizes; `window` None shuffles each lane whole.

    Raises ParamsError when the split cannot fill one global batch.
    """
    sizes = np.asarray(shard_sizes, np.int64)
    num_samples = int(sizes.sum())
    num_steps = num_steps_per_epoch(num_samples, global_batch_size, lanes)
    key = epoch_key(seed=seed, epoch=epoch, digest=digest)
    permutation = permute(np.arange(len(sizes)), len(sizes), key_of(key, "shards"))
    return Order(
        global_batch_size=global_batch_size,
        lanes=lanes,
        num_samples=num_samples,
        num_steps=num_steps,
        window=max(1, min(window or num_samples, num_samples // lanes)),
        key=key,
        shard_starts=starts_of(sizes),
        shard_permutation=permutation,
        permuted_starts=starts_of(sizes[permutation]),
    )


def num_steps_per_epoch(num_samples: int, global_batch_size: int, lanes: int) -> int:
    """Steps whose global batch can be filled. Raises ParamsError when there is none."""
    num_steps = (num_samples // lanes) // (global_batch_size // lanes)
    if num_steps == 0:
        raise ParamsError(
            f"loading.global_batch_size={global_batch_size} is more than the {num_samples} training samples"
            f"{f' in loading.lanes={lanes} equal lanes' if lanes > 1 else ''}; "
            f"use {max(1, num_samples // lanes) * lanes} or less, or add images."
        )
    return num_steps


def evaluation_steps(
    num_samples: int, batch_size: int, rank: int, world_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sample numbers and mask of each of a rank's batches: every sample once over all ranks, equally many batches.

    Both are [batch_size]; padding repeats the last sample under mask False.
    """
    for first in range(0, num_samples, batch_size * world_size):
        numbers = np.arange(batch_size, dtype=np.int64) + first + rank * batch_size
        yield np.minimum(numbers, num_samples - 1), numbers < num_samples


def starts_of(sizes: np.ndarray) -> np.ndarray:
    """[len(sizes) + 1] running sums from 0."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])

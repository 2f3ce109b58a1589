"""Which sample is used in which step when every class is drawn equally often: a pure function, like `order`.

The draws of a whole run are numbered. Each round of as many draws as there are classes holds every class once, so a
class's r-th draw is in round r; its samples come in passes, each a keyed shuffle of all of them, so none comes again
before every other one did, whatever epoch that is in. Memory is O(pairs of a class and a shard that holds it), at most
the table of class counts in the index.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.loading.keyed import key_of, keys_of, permute
from pipeline.loading.order import Steps, epoch_key, num_steps_per_epoch, starts_of

LabelsOf = Callable[[int], np.ndarray]
"""The labels of a shard's samples, in the tar's order."""


@dataclass(frozen=True)
class BalancedOrder(Steps):
    """Every class equally often: what `balanced_order` decides. Small classes may be in a step more than once."""

    run_key: int
    """Of the draws, which do not begin anew with an epoch."""
    first_draw: int
    class_sizes: np.ndarray
    """[num_classes] samples of each class that has any, in the order of the labels."""
    class_starts: np.ndarray
    """[num_classes + 1] first place of each of them in the samples sorted by class, then by number."""
    pair_starts: np.ndarray
    """[num_pairs + 1] first place, in the same, of each class in each shard that holds it."""
    pair_labels: np.ndarray
    """[num_pairs]"""
    pair_shards: np.ndarray
    """[num_pairs]"""
    shard_starts: np.ndarray
    """[num_shards + 1] first sample number of each shard."""
    labels_of: LabelsOf

    def step(self, step: int) -> np.ndarray:
        """Sample numbers of one step."""
        classes, turns, places = self._draws(step)
        keys = keys_of(self.run_key, classes, turns)
        sorted_places = self.class_starts[classes] + permute(places, self.class_sizes[classes], keys)
        return self._numbers(sorted_places)

    def turns(self, step: int) -> np.ndarray:
        """How often the run drew each of the step's samples before."""
        return self._draws(step)[1]

    def _draws(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class, pass and place in the pass of each draw of a step."""
        first = self.first_draw + step * self.global_batch_size
        draws = np.arange(first, first + self.global_batch_size, dtype=np.int64)
        rounds, places = np.divmod(draws, len(self.class_sizes))
        classes = permute(places, len(self.class_sizes), keys_of(self.run_key, rounds))
        return classes, *np.divmod(rounds, self.class_sizes[classes])

    def _numbers(self, sorted_places: np.ndarray) -> np.ndarray:
        """Sample numbers from places in the samples sorted by class."""
        pairs = np.searchsorted(self.pair_starts, sorted_places, side="right") - 1
        numbers = np.empty_like(sorted_places)
        for pair in np.unique(pairs):
            here, shard = pairs == pair, self.pair_shards[pair]
            rows = np.flatnonzero(self.labels_of(int(shard)) == self.pair_labels[pair])
            numbers[here] = self.shard_starts[shard] + rows[sorted_places[here] - self.pair_starts[pair]]
        return numbers


def balanced_order(
    class_counts: Sequence[Sequence[int]],
    labels_of: LabelsOf,
    *,
    seed: int,
    epoch: int,
    digest: str,
    global_batch_size: int,
) -> BalancedOrder:
    """The order of one epoch over shards with these samples per class; a class without a sample is never drawn.

    Raises ParamsError when the split cannot fill one global batch.
    """
    counts = np.asarray(class_counts, np.int64)
    num_steps = num_steps_per_epoch(int(counts.sum()), global_batch_size, lanes=1)
    class_sizes = counts.sum(axis=0)
    class_sizes = class_sizes[class_sizes > 0]
    pair_labels, pair_shards = np.nonzero(counts.T)
    return BalancedOrder(
        global_batch_size=global_batch_size,
        num_steps=num_steps,
        key=epoch_key(seed=seed, epoch=epoch, digest=digest),
        run_key=key_of(seed, digest, "balanced"),
        first_draw=epoch * num_steps * global_batch_size,
        class_sizes=class_sizes,
        class_starts=starts_of(class_sizes),
        pair_starts=starts_of(counts.T[pair_labels, pair_shards]),
        pair_labels=pair_labels,
        pair_shards=pair_shards,
        shard_starts=starts_of(counts.sum(axis=1)),
        labels_of=labels_of,
    )

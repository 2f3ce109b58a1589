"""A part of a split for quick experiments, chosen without touching a tar: a keyed choice in each shard, class by class,
or in a multi-label set of all its samples alike.

A smaller part lies within a larger one. How many samples a shard keeps follows from the index alone; which ones, from
the labels in its table. A shard keeps its choice when others are added; removing images from it draws anew there.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.artifacts import Shard
from pipeline.loading.keyed import key_of, keys_of, permute, uniforms


def subset_counts(shards: Sequence[Shard], fraction: float, *, multi_label: bool = False) -> list[list[int]]:
    """Samples that each shard keeps of each label, or of all together in a multi-label set.

    A class that makes no whole number rounds up as often as its remainder says, so all shards together keep its share.
    """
    return [_kept(shard, fraction, multi_label).tolist() for shard in shards]


def subset_rows(shard: Shard, labels: np.ndarray | None, fraction: float) -> np.ndarray:
    """The rows of the shard's table that are kept, ascending, int64; `labels` are the table's, None of a multi-label
    set's."""
    multi_label = labels is None
    labels = np.zeros(shard.num_samples, np.int32) if multi_label else labels
    rows = [np.empty(0, np.int64)]
    for label, kept in enumerate(_kept(shard, fraction, multi_label).tolist()):
        if kept:
            of_class = np.flatnonzero(labels == label)
            (key,) = keys_of(_key(shard), np.array([label]))
            rows.append(of_class[permute(np.arange(kept), len(of_class), key)])
    return np.sort(np.concatenate(rows))


def _kept(shard: Shard, fraction: float, multi_label: bool) -> np.ndarray:
    counts = np.asarray([shard.num_samples] if multi_label else shard.class_counts, np.int64)
    rounding = uniforms(_key(shard), np.arange(len(counts)), 1)[:, 0]
    return np.floor(fraction * counts + rounding).astype(np.int64)


def _key(shard: Shard) -> int:
    return key_of("subset", shard.name)

"""A part of a split for quick experiments, chosen without touching a tar: a keyed choice in each shard, class by class.

A smaller part lies within a larger one. How many samples a shard keeps follows from the index alone; which ones,
from the labels in its table. A shard keeps its choice when others are added; removing images from it draws anew there.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.artifacts import Shard
from pipeline.loading.keyed import key_of, keys_of, permute, uniforms


def subset_counts(shards: Sequence[Shard], fraction: float) -> list[list[int]]:
    """Samples that each shard keeps of each label.

    A class that makes no whole number rounds up as often as its remainder says, so all shards together keep its share.
    """
    return [_kept(shard, fraction).tolist() for shard in shards]


def subset_rows(shard: Shard, labels: np.ndarray, fraction: float) -> np.ndarray:
    """The rows of the shard's table that are kept, ascending, int64; `labels` are the table's."""
    rows = [np.empty(0, np.int64)]
    for label, kept in enumerate(_kept(shard, fraction).tolist()):
        if kept:
            of_class = np.flatnonzero(labels == label)
            (key,) = keys_of(_key(shard), np.array([label]))
            rows.append(of_class[permute(np.arange(kept), len(of_class), key)])
    return np.sort(np.concatenate(rows))


def _kept(shard: Shard, fraction: float) -> np.ndarray:
    counts = np.asarray(shard.class_counts, np.int64)
    rounding = uniforms(_key(shard), np.arange(len(counts)), 1)[:, 0]
    return np.floor(fraction * counts + rounding).astype(np.int64)


def _key(shard: Shard) -> int:
    return key_of("subset", shard.name)

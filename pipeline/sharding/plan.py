"""Which sample goes into which shard, under which key: decided with integers before anything is encoded."""

from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SPLITS

KEY_DIGITS = 9


class PlannedShard(NamedTuple):
    split: str
    name: str
    """Relative to the index, without the ending."""
    first_key: int
    """Of the keys that count on, one a row."""
    rows: np.ndarray
    """int64: rows of the manifest, in the tar's order."""


def plan_shards(splits: np.ndarray, contents: np.ndarray, samples_per_shard: int, seed: int) -> list[PlannedShard]:
    """Every record that has a split, exactly once; keys are unique over all splits.

    Inside a split the order is a keyed shuffle of `contents`, uint64 [num_records], the first bytes of the images'
    digests, so that whoever reads a tar from its start meets all classes.
    """
    order_keys = _shuffle_keys(contents, seed)
    shards, first_key = [], 0
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(splits == code)
        rows = rows[np.argsort(order_keys[rows], kind="stable")]
        for number, start in enumerate(range(0, len(rows), samples_per_shard)):
            rows_of_shard = rows[start : start + samples_per_shard]
            shards.append(PlannedShard(split, f"{split}/{split}-{number:06d}", first_key, rows_of_shard))
            first_key += len(rows_of_shard)
    assert first_key <= 10**KEY_DIGITS, "keys have nine digits"
    return shards


def _shuffle_keys(contents: np.ndarray, seed: int) -> np.ndarray:
    """uint64 [num_records]: the content, mixed with the seed. Source: splitmix64."""
    mixed = contents + np.uint64(seed % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    return mixed

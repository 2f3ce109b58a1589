"""Which sample goes into which shard, under which key: decided with integers before anything is encoded."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pipeline.errors import SourceError
from pipeline.sharding.groups import sorted_places
from pipeline.sharding.split import NO_SPLIT, part_name

KEY_DIGITS = 9


class PlannedShard(NamedTuple):
    name: str
    """Relative to the index, without the ending: of its part, a folder, and its number in it."""
    first_key: int
    """Of the keys that count on, one a row."""
    rows: np.ndarray
    """int32: rows of the manifest, in the tar's order."""


class Taken(NamedTuple):
    """What the shards of a former set have, and new ones must not."""

    first_key: int = 0
    """All lower keys are taken."""
    numbers: Mapping[str, int] = {}
    """By part, the lowest number of a shard that is free; 0 of a part that is not named."""


NOTHING_TAKEN = Taken()


def plan_shards(
    parts: np.ndarray, contents: np.ndarray, samples_per_shard: int, seed: int, taken: Taken = NOTHING_TAKEN
) -> list[PlannedShard]:
    """Every record that has a part, exactly once; keys are unique over all parts.

    Inside a part the order is a keyed shuffle of `contents`, uint64 [num_records], the first bytes of the images'
    digests, so that whoever reads a tar from its start meets all classes. Raises SourceError when keys do not suffice.
    """
    shards, first_key = [], taken.first_key
    for code in np.unique(parts[parts != NO_SPLIT]).tolist():
        part = part_name(code)
        rows = np.flatnonzero(parts == code).astype(np.int32)
        rows = rows[sorted_places(_shuffled(contents[rows], seed))]
        for number, start in enumerate(range(0, len(rows), samples_per_shard), taken.numbers.get(part, 0)):
            rows_of_shard = rows[start : start + samples_per_shard]
            shards.append(PlannedShard(f"{part}/{part}-{number:06d}", first_key, rows_of_shard))
            first_key += len(rows_of_shard)
    if first_key > 10**KEY_DIGITS:
        raise SourceError(
            f"The set would need {first_key:,} keys, and a key has {KEY_DIGITS} digits; `convoy compact` gives those "
            "of removed images back, more images need a set of their own."
        )
    return shards


def _shuffled(keys: np.ndarray, seed: int) -> np.ndarray:
    """The keys, uint64, themselves, mixed with the seed. Source: splitmix64."""
    keys += np.uint64(seed % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        keys ^= keys >> np.uint64(shift)
        keys *= np.uint64(factor)
    return keys

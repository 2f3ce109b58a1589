"""Which part of the set a record belongs to: as the source says, else by a keyed hash of what the image is.

A threshold on a hash, never a rank: adding images moves no old one. The class plays no part in the hash, so that
equal images under two labels stay together; inside every class the same fractions come out. A part is a split or,
where there are folds, a fold: one of them is then the validation split, the others together the training split.

Near duplicates stay together, too, and that has a price: where each of two images alone would be in another part,
no rule that sees only the present set can keep them together and leave both where they were. So a group of near
duplicates goes where its member with the smallest digest goes. Where a set grows, it is known where the old members
are: they stay there, and the new ones join them.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SPLITS
from pipeline.errors import SourceError
from pipeline.sharding.groups import DIGEST_BYTES, grouped_rows

TRAIN, VALIDATION, TEST = range(len(SPLITS))
FIRST_FOLD = len(SPLITS)
"""Parts are numbered as the splits are, and the folds after them."""

NO_SPLIT = -1
"""Of a record that was rejected before it had one, or that has no part yet."""


class SplitRule(NamedTuple):
    """The `split` parameters."""

    validation_fraction: float
    """Not looked at where there are folds."""
    test_fraction: float
    seed: int
    near_duplicates_together: bool = True
    folds: int | None = None
    fold: int | None = None
    """Which one is the validation split."""


def part_name(part: int) -> str:
    return SPLITS[part] if part < FIRST_FOLD else f"fold-{part - FIRST_FOLD}"


def part_of(shard_name: str) -> int:
    """The part of an index's shard, which its folder is named after."""
    name = shard_name.split("/")[0]
    return SPLITS.index(name) if name in SPLITS else FIRST_FOLD + int(name.removeprefix("fold-"))


def splits_of(parts: np.ndarray, fold: int | None) -> np.ndarray:
    """int8: the positions in SPLITS of these parts, NO_SPLIT as it is."""
    if fold is None:
        return parts
    of_folds = np.where(parts == FIRST_FOLD + fold, VALIDATION, TRAIN)
    return np.where(parts < FIRST_FOLD, parts, of_folds).astype(np.int8)


def assign_parts(
    given: Iterable[str | None],
    groups: Iterable[str | None],
    digests: Iterable[bytes],
    fixed: Collection[str],
    rule: SplitRule,
    anchors: Iterable[int],
) -> np.ndarray:
    """int8 [num_records]: the records' parts.

    A given validation or test record stays there. The others, and of a source that fixes splits those of train, are
    divided by hash among train, or the folds, and the splits that the source does not fix; `fixed` names those that it
    does. Records of one group share their fate; without a group, those with one digest do (see `speaking_digests`),
    unless one of the `anchors` is not NO_SPLIT: then they are there (see `spread_anchors`).

    Raises SourceError for folds of a source that fixes the validation split.
    """
    if rule.folds and "validation" in fixed:
        raise SourceError(
            f"split.folds={rule.folds} makes the validation split of each fold in turn, but the source fixes one; name "
            "its images train, or set split.folds and split.fold to null."
        )
    key, to_part = f"split {rule.seed}".encode(), _thresholds(rule, fixed)

    def assign(split: str | None, group: str | None, digest: bytes, anchor: int) -> int:
        if split in ("validation", "test"):
            return SPLITS.index(split)
        if group is None and anchor != NO_SPLIT:
            return anchor
        identity = b"content " + digest if group is None else b"group " + group.encode()
        value = int.from_bytes(hashlib.blake2b(identity, digest_size=8, key=key).digest())
        return next(part for below, part in to_part if value < below)

    return np.fromiter(map(assign, given, groups, digests, anchors), np.int8)


def speaking_digests(
    digests: Iterable[np.ndarray], alike: np.ndarray, digests_of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[bytes]:
    """For each record the smallest digest of its group of near duplicates, in the records' order.

    `digests` are uint8 [some rows, 32], part by part; `alike` are groups (see `groups`); `digests_of` gives those of
    some rows: the ones that are in a group with others are asked for.
    """
    members = grouped_rows(alike)
    of_members = digests_of(members)
    spoken = of_members[_speakers(of_members, alike[members])]
    start = 0
    for of_part in digests:
        end = start + len(of_part)
        low, high = np.searchsorted(members, (start, end))
        speaking = of_part.copy()
        speaking[members[low:high] - start] = spoken[low:high]
        data = speaking.tobytes()
        yield from (data[place : place + DIGEST_BYTES] for place in range(0, len(data), DIGEST_BYTES))
        start = end


def spread_anchors(
    anchors: np.ndarray, alike: np.ndarray, digests_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """int8 [num_records]: anchors, and for a record without one that of its near duplicates.

    `anchors`, int8 [num_records], are the parts in which images lie already, NO_SPLIT of the others: they stay. Where
    near duplicates lie in several parts, the one with the smallest digest speaks.
    """
    members = grouped_rows(alike)
    anchored = members[anchors[members] != NO_SPLIT]
    speakers = anchored[_speakers(digests_of(anchored), alike[anchored])]
    part_of_group = np.full(len(anchors), NO_SPLIT, np.int8)
    part_of_group[alike[anchored]] = anchors[speakers]
    return np.where(anchors == NO_SPLIT, part_of_group[alike], anchors)


def check_no_split_is_empty(counts: Sequence[int], rule: SplitRule) -> None:
    """Raises SourceError when train, or a split that was asked for, holds nothing."""
    validation = f"split.validation_fraction={rule.validation_fraction}" if rule.validation_fraction else None
    wanted = {
        "train": "there is nothing to train on",
        "validation": f"split.fold={rule.fold} of split.folds={rule.folds}" if rule.folds else validation,
        "test": f"split.test_fraction={rule.test_fraction}" if rule.test_fraction else None,
    }
    for split, count in zip(SPLITS, counts, strict=True):
        if not count and wanted[split]:
            raise SourceError(
                f"None of {sum(counts)} images fell into the {split} split ({wanted[split]}); add images, change the "
                "fractions or split.seed, or name each image's split (data.split_column, or folders train and test)."
            )


def _thresholds(rule: SplitRule, fixed: Collection[str]) -> list[tuple[int, int]]:
    """(values under this, part), ascending; the last takes all that are left."""
    everything = 2**64
    test_below = 0 if "test" in fixed else int(rule.test_fraction * everything)
    if rule.folds:
        rest = everything - test_below
        return [
            (test_below, TEST),
            *((test_below + rest * (fold + 1) // rule.folds, FIRST_FOLD + fold) for fold in range(rule.folds)),
        ]
    validation_below = test_below + (0 if "validation" in fixed else int(rule.validation_fraction * everything))
    return [(test_below, TEST), (validation_below, VALIDATION), (everything, TRAIN)]


def _speakers(digests: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """int64 [num_members]: for each member the place of the one of its group that has the smallest digest."""
    words = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort((*words.T[::-1], groups))
    is_first = np.ones(len(order), bool)
    is_first[1:] = groups[order[1:]] != groups[order[:-1]]
    speakers = np.empty(len(order), np.int64)
    speakers[order] = order[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    return speakers

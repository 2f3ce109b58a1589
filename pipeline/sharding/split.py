"""Which split a record belongs to: as the source says, else by a keyed hash of what the image is.

A threshold on a hash, never a rank: adding images moves no old one. The class plays no part in the hash, so that
equal images under two labels stay together; inside every class the same fractions come out.

Near duplicates stay together, too, and that has a price: where each of two images alone would be in another split,
no rule that sees only the present set can keep them together and leave both where they were. So a group of near
duplicates goes where its member with the smallest digest goes, whichever that is, and an old image can be moved by a
new near duplicate of its own, by nothing else.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from pipeline.artifacts import SPLITS
from pipeline.errors import SourceError
from pipeline.sharding.groups import DIGEST_BYTES, grouped_rows

TRAIN, VALIDATION, TEST = range(len(SPLITS))
NO_SPLIT = -1
"""Of a record that was rejected before it had one."""


def assign_splits(
    given: Iterable[str | None],
    groups: Iterable[str | None],
    digests: Iterable[bytes],
    fixed: Collection[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """int8 [num_records]: positions in SPLITS.

    A given validation or test record stays there. The others, and of a source that fixes splits those of train, are
    divided by hash among train and the splits that the source does not fix; `fixed` names those that it does. Records
    of one group share their fate; without a group, those with one digest do (see `speaking_digests`).
    """
    test_below = 0 if "test" in fixed else _threshold(test_fraction)
    validation_below = test_below + (0 if "validation" in fixed else _threshold(validation_fraction))
    key = f"split {seed}".encode()

    def assign(split: str | None, group: str | None, digest: bytes) -> int:
        if split in ("validation", "test"):
            return SPLITS.index(split)
        identity = b"content " + digest if group is None else b"group " + group.encode()
        value = int.from_bytes(hashlib.blake2b(identity, digest_size=8, key=key).digest())
        return TEST if value < test_below else VALIDATION if value < validation_below else TRAIN

    return np.fromiter(map(assign, given, groups, digests), np.int8)


def speaking_digests(
    digests: Iterable[np.ndarray], alike: np.ndarray, digests_of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[bytes]:
    """For each record the smallest digest of its group of near duplicates, in the records' order.

    `digests` are uint8 [some rows, 32], part by part; `alike` are groups (see `groups`); `digests_of` gives those of
    some rows: the ones that are in a group with others are asked for.
    """
    members = grouped_rows(alike)
    spoken = _smallest_of_groups(digests_of(members), alike[members])
    start = 0
    for of_part in digests:
        end = start + len(of_part)
        low, high = np.searchsorted(members, (start, end))
        speaking = of_part.copy()
        speaking[members[low:high] - start] = spoken[low:high]
        data = speaking.tobytes()
        yield from (data[place : place + DIGEST_BYTES] for place in range(0, len(data), DIGEST_BYTES))
        start = end


def _smallest_of_groups(digests: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """uint8 [num_members, 32]: for each member the smallest digest of its group."""
    words = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort((*words.T[::-1], groups))
    is_first = np.ones(len(order), bool)
    is_first[1:] = groups[order[1:]] != groups[order[:-1]]
    speakers = np.empty(len(order), np.int64)
    speakers[order] = order[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    return digests[speakers]


def check_no_split_is_empty(counts: Sequence[int], validation_fraction: float, test_fraction: float) -> None:
    """Raises SourceError when train, or a split that was asked for, holds nothing."""
    wanted = {
        "train": "there is nothing to train on",
        "validation": f"split.validation_fraction={validation_fraction}" if validation_fraction else None,
        "test": f"split.test_fraction={test_fraction}" if test_fraction else None,
    }
    for split, count in zip(SPLITS, counts, strict=True):
        if not count and wanted[split]:
            raise SourceError(
                f"None of {sum(counts)} images fell into the {split} split ({wanted[split]}); add images, change the "
                "fractions or split.seed, or name each image's split (data.split_column, or folders train and test)."
            )


def _threshold(fraction: float) -> int:
    return int(fraction * 2**64)

"""Groups of records as one number a record: the smallest row of its group; who is alone is its own group.

Four bytes a record, and what is asked of them costs memory for the grouped ones alone, which are few.
"""

import hashlib
from collections.abc import Callable

import numpy as np

DIGEST_BYTES = hashlib.sha256().digest_size


ROWS_AT_ONCE = 65_536


def sorted_places(numbers: np.ndarray) -> np.ndarray:
    """int32: the places of uint64 in their order, of equal ones the first first; sorted by their upper bits in parts,
    since NumPy's own places take eight bytes each."""
    upper = numbers.astype("<u8", copy=False).view(np.uint8)[7::8] >> 4
    parts = (np.flatnonzero(upper == bits) for bits in range(16))
    order, start = np.empty(len(numbers), np.int32), 0
    for places in parts:
        order[start : start + len(places)] = places[np.argsort(numbers[places], kind="stable")]
        start += len(places)
    return order


def alone(num_records: int) -> np.ndarray:
    """int32 [num_records]: nobody is in a group."""
    return np.arange(num_records, dtype=np.int32)


def group_equal(contents: np.ndarray, digests_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """int32 [num_records]: groups of equal digests.

    `contents`, uint64 [num_records], are parts of the digests; `digests_of` gives the whole ones, uint8 [num_rows, 32],
    of some rows: those whose parts are equal are asked for.
    """
    order = sorted_places(contents)
    is_candidate = np.zeros(len(order), bool)
    for start in range(0, len(order), ROWS_AT_ONCE):
        in_order = contents[order[start : start + ROWS_AT_ONCE + 1]]
        firsts = start + np.flatnonzero(in_order[1:] == in_order[:-1])
        is_candidate[firsts] = is_candidate[firsts + 1] = True
    rows = np.sort(order[is_candidate])
    leaders = alone(len(contents))
    words = np.ascontiguousarray(digests_of(rows)).view(">u8")
    by_digest = np.lexsort((rows, *words.T[::-1]))
    is_new = np.ones(len(rows), bool)
    is_new[1:] = (words[by_digest[1:]] != words[by_digest[:-1]]).any(axis=1)
    leaders[rows[by_digest]] = rows[by_digest][np.flatnonzero(is_new)][np.cumsum(is_new) - 1]
    return leaders


def grouped_rows(leaders: np.ndarray) -> np.ndarray:
    """The rows that are not alone, ascending."""
    followers = _followers(leaders)
    return np.union1d(followers, leaders[followers])


def groups_of(leaders: np.ndarray, is_meant: np.ndarray) -> list[np.ndarray]:
    """The groups of two and more among the rows that are meant: rows ascending, groups by their first row."""
    rows = grouped_rows(leaders)
    rows = rows[is_meant[rows]]
    order = np.argsort(leaders[rows], kind="stable")
    groups = np.split(rows[order], np.flatnonzero(np.diff(leaders[rows][order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: group[0])


def _followers(leaders: np.ndarray) -> np.ndarray:
    return np.flatnonzero(leaders != alone(len(leaders)))

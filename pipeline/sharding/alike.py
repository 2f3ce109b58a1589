"""Which of a set's images look alike: pairs of near hashes whose thumbnails agree, joined into groups.

Not quadratic: two hashes that differ in `max_bits` bits agree in at least AGREEING of max_bits + AGREEING blocks of
bits, so only hashes that agree in some such blocks are compared. Memory is a few arrays of one entry an image.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from pipeline.sharding.groups import alone, sorted_places

AGREEING = 3
"""More blocks mean more sorting and fewer comparisons; three are the fastest at a million hashes."""

MAX_COMPARED = 128
"""Hashes with which one hash is compared in one round of sorting. Only where hundreds of different images have nearly
one hash are there more; most are met in other rounds, or through a third image, and the rest are missed."""

MIN_CORRELATION = 0.95
"""Of two thumbnails. Measured on 300 photographs: copies at half the size or at quality 50 are above 0.99, of crops
that lose 2 % around the middle 99 in 100 are above 0.97, at one corner 95 in 100 above 0.94; no two different ones
reach 0.9."""

MIN_CONTRAST = 2.0
"""Standard deviation of a thumbnail, of 255 grey levels; a flatter one is like every other flat one."""

HASH_BITS = 64
HASHES_AT_ONCE = 100_000
"""Sorted at once: a million at once would take six times as much memory."""

MIXING = np.uint64(0x9E3779B97F4A7C15)
"""An odd factor that spreads the bits of a key over its upper ones. Source: Knuth, TAOCP 3, 6.4."""

PAIRS_AT_ONCE = 4096
"""Whose thumbnails are in memory."""


def group_alike(
    likenesses: Iterable[np.ndarray], is_meant: np.ndarray, thumbs_of: Callable[[np.ndarray], np.ndarray], max_bits: int
) -> np.ndarray:
    """int32 [num_images]: groups (see `groups`) of images that look alike.

    `likenesses` are LIKENESS_DTYPE [some images], part by part; `thumbs_of` gives the uint8 [num_rows, pixels] of some
    rows: few are asked for. Flat images, and those that are not meant, bool [num_images], are in no group.
    """
    leaders = alone(len(is_meant))
    hashes, candidates = _candidates(likenesses, is_meant)
    for a, b in near_pairs(hashes, max_bits):
        rows_a, rows_b = candidates[a], candidates[b]
        is_open = leaders[rows_a] != leaders[rows_b]
        rows_a, rows_b = rows_a[is_open], rows_b[is_open]
        for start in range(0, len(rows_a), PAIRS_AT_ONCE):
            a_now, b_now = rows_a[start : start + PAIRS_AT_ONCE], rows_b[start : start + PAIRS_AT_ONCE]
            is_alike = correlations(thumbs_of(a_now), thumbs_of(b_now)) >= MIN_CORRELATION
            if is_alike.any():
                _join(leaders, a_now[is_alike], b_now[is_alike])
    return leaders


def _candidates(likenesses: Iterable[np.ndarray], is_meant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the images that are compared, uint64, and their rows, int32."""
    hashes, rows = np.empty(len(is_meant), np.uint64), np.empty(len(is_meant), np.int32)
    num_found = first_row = 0
    for part in likenesses:
        is_here = is_meant[first_row : first_row + len(part)]
        found = np.flatnonzero(is_here & (part["contrast"] >= MIN_CONTRAST))
        place = slice(num_found, num_found + len(found))
        hashes[place], rows[place] = part["hash"][found], first_row + found
        num_found, first_row = place.stop, first_row + len(part)
    return hashes[:num_found], rows[:num_found]


def near_pairs(hashes: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of hashes that differ in at most `max_bits` bits, in batches; a pair may come more than once.

    The hashes are sorted where they lie: a sorted copy would take as much again.
    """
    order = sorted_places(hashes)
    hashes.sort()
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    if not is_first.all():
        # Of equal hashes the first is paired with each of the others, and after that speaks for them.
        firsts, followers = np.flatnonzero(is_first), np.flatnonzero(~is_first)
        yield order[firsts[np.searchsorted(firsts, followers) - 1]], order[followers]
        order, hashes = _keep(order, is_first), _keep(hashes, is_first)
    for mask in _masks(max_bits):
        for places in _blocks(hashes, mask):
            key = hashes[places] & mask
            by_key = np.argsort(key, kind="stable")  # the same order, and so the same pairs, on every machine
            for a, b in _near_neighbours(key[by_key], hashes[places[by_key]], max_bits):
                yield order[places[by_key[a]]], order[places[by_key[b]]]


def _keep(array: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
    """Those that are kept, moved to the array's front: a copy would take as much again."""
    num_kept = 0
    for start in range(0, len(array), HASHES_AT_ONCE):
        part = slice(start, start + HASHES_AT_ONCE)
        kept = array[part][is_kept[part]]
        array[num_kept : num_kept + len(kept)] = kept
        num_kept += len(kept)
    return array[:num_kept]


def _blocks(hashes: np.ndarray, mask: np.uint64) -> Iterator[np.ndarray]:
    """The places of hashes in parts that are sorted one at a time: equal masked hashes are in one part."""
    num_parts = max(1, len(hashes) // HASHES_AT_ONCE)
    if num_parts == 1:
        yield np.arange(len(hashes))
        return
    part = np.empty(len(hashes), np.uint16)
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        mixed = (hashes[start : start + HASHES_AT_ONCE] & mask) * MIXING >> np.uint64(48)
        part[start : start + HASHES_AT_ONCE] = mixed % np.uint64(num_parts)
    for number in range(num_parts):
        yield np.flatnonzero(part == number)


def _near_neighbours(key: np.ndarray, hashes: np.ndarray, max_bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of hashes with one key, which is sorted, that differ in few bits."""
    places = np.arange(len(key) - 1)
    for distance in range(1, MAX_COMPARED + 1):
        places = places[: np.searchsorted(places, len(key) - distance)]
        places = places[key[places] == key[places + distance]]
        if not len(places):
            return
        bits = np.bitwise_count(hashes[places] ^ hashes[places + distance])
        near = places[bits <= max_bits]
        if len(near):
            yield near, near + distance


def correlations(thumbs_a: np.ndarray, thumbs_b: np.ndarray) -> np.ndarray:
    """float64 [num_pairs]; sums of whole numbers, so that a pair on the border is on the same side everywhere."""
    a, b, num_pixels = thumbs_a.astype(np.int32), thumbs_b.astype(np.int32), thumbs_a.shape[1]
    sum_a, sum_b = a.sum(axis=1), b.sum(axis=1)
    covariance = num_pixels * _products(a, b) - sum_a * sum_b
    variances = [num_pixels * _products(each, each) - total * total for each, total in ((a, sum_a), (b, sum_b))]
    return covariance / np.sqrt(variances[0].astype(np.float64) * variances[1])


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int64 [num_pairs]: the scalar product of each row with its other; 32 bits hold that of 33,000 grey levels."""
    return np.einsum("ij,ij->i", a, b).astype(np.int64)


def _masks(max_bits: int) -> Iterator[np.uint64]:
    """Every choice of AGREEING blocks of the hash's bits."""
    edges = np.linspace(0, HASH_BITS, max_bits + AGREEING + 1).astype(int).tolist()
    blocks = [(1 << last) - (1 << first) for first, last in itertools.pairwise(edges)]
    for chosen in itertools.combinations(blocks, AGREEING):
        yield np.uint64(sum(chosen))


def _join(leaders: np.ndarray, rows_a: np.ndarray, rows_b: np.ndarray) -> None:
    """Joins the groups of each pair; afterwards every row names its group's smallest row."""
    for row_a, row_b in zip(rows_a.tolist(), rows_b.tolist(), strict=True):
        low, high = sorted((_root(leaders, row_a), _root(leaders, row_b)))
        leaders[high] = low
    while (leaders[leaders] != leaders).any():
        leaders[:] = leaders[leaders]


def _root(leaders: np.ndarray, row: int) -> int:
    while (leader := leaders[row]) != row:
        leaders[row] = leaders[leader]
        row = leader
    return row

"""Randomness without state: every value is a pure function of a key and a counter.

Keyed permutations make a shuffle of any size addressable at any position in constant memory; keyed uniforms give a
sample the same draws on whatever rank, thread or machine it is processed. Nothing here is cryptographic.
"""

import hashlib

import numpy as np

# Stafford's "Mix13" finalizer of splitmix64 (Steele, Lea, Flood 2014), and its increment.
_MULTIPLIER_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = np.uint64(0x94D049BB133111EB)
_INCREMENT = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF

_NUM_ROUNDS = 8
"""Feistel rounds, half of them on each side. Four make a strong pseudorandom permutation of an ideal round function
(Luby and Rackoff 1988); the other four pay for halves of a few elements."""


def key_of(*parts: object) -> int:
    """A 64-bit key from plain values; their order and their types matter."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def keys_of(key: int, *counters: np.ndarray) -> np.ndarray:
    """A 64-bit key for each tuple of counters, uint64; for many at once what `key_of` is for one."""
    increment = np.array([_INCREMENT], np.uint64)
    keys = mix(np.array([key], np.uint64) + increment)
    for counter in counters:
        keys = mix((keys ^ counter.astype(np.uint64)) + increment)
    return keys


def mix(words: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which each input bit flips each output bit about half the time."""
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLIER_1
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLIER_2
    return words ^ (words >> np.uint64(31))


def permute(positions: np.ndarray, size: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """Where a shuffle of range(size) puts these positions: a bijection of range(size), int64 [len(positions)].

    `size` and `key` may be one for each position, which then are places in shuffles of their own. Constant memory and
    time per position, at any size under 2**62. A mixed-radix Feistel network over a square that exceeds `size` by less
    than one row; what falls into the excess walks on until it is inside (Black and Rogaway 2002).
    """
    values = np.array(positions, np.int64)
    sizes, keys = np.atleast_1d(np.asarray(size, np.int64)), np.atleast_1d(np.asarray(key, np.uint64))
    rows = np.maximum(1, np.ceil(np.sqrt(sizes)).astype(np.int64))
    columns = -(-sizes // rows)
    outside = np.ones(values.shape, bool)
    while outside.any():
        of_outside = (each if len(each) == 1 else each[outside] for each in (rows, columns, keys))
        values[outside] = _feistel(values[outside], *of_outside)
        outside = values >= sizes
    return values


def uniforms(key: int, counters: np.ndarray, num_draws: int) -> np.ndarray:
    """`num_draws` numbers in [0, 1) for each counter, float64 [len(counters), num_draws]."""
    streams = mix(np.asarray(counters, np.uint64) ^ np.uint64(key))
    steps = np.array([(draw + 1) * _INCREMENT & _WORD for draw in range(num_draws)], np.uint64)
    words = mix(streams[:, None] + steps[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _feistel(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, keys: np.ndarray) -> np.ndarray:
    row, column = np.divmod(values, columns)
    for each in range(0, _NUM_ROUNDS, 2):
        row = (row + _round(column, keys, each, rows)) % rows
        column = (column + _round(row, keys, each + 1, columns)) % columns
    return row * columns + column


def _round(halves: np.ndarray, keys: np.ndarray, number: int, moduli: np.ndarray) -> np.ndarray:
    round_keys = keys + np.uint64((number + 1) * _INCREMENT & _WORD)
    mixed = mix(mix(halves.astype(np.uint64) ^ round_keys) + round_keys)
    return (mixed % moduli.astype(np.uint64)).astype(np.int64)

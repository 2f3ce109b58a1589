import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loading.keyed import key_of, keys_of, mix, permute, uniforms

sizes = st.one_of(st.integers(1, 300), st.integers(1, 20_000))
keys = st.integers(0, 2**64 - 1)


@given(sizes, keys)
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(1, 2**61), keys, st.lists(st.integers(0, 2**61), min_size=1, max_size=20))
def test_permute_of_any_size_stays_inside_and_keeps_positions_apart(size, key, raw):
    positions = np.unique(np.array(raw, np.int64) % size)
    permuted = permute(positions, size, key)
    assert permuted.min() >= 0
    assert permuted.max() < size
    assert len(np.unique(permuted)) == len(positions)


def test_permute_at_a_position_does_not_depend_on_the_others():
    whole = permute(np.arange(1000), 1000, 7)
    assert permute(np.array([123, 999]), 1000, 7).tolist() == whole[[123, 999]].tolist()


@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**40), keys), min_size=1, max_size=20))
def test_positions_may_be_in_shuffles_of_their_own(asked):
    positions, own_sizes, own_keys = zip(*((position % size, size, key) for position, size, key in asked), strict=True)
    together = permute(np.array(positions), np.array(own_sizes), np.array(own_keys, np.uint64))
    each = zip(positions, own_sizes, own_keys, strict=True)
    alone = [int(permute(np.array([position]), size, key)[0]) for position, size, key in each]
    assert together.tolist() == alone


def test_permute_differs_by_key_and_is_pinned():
    assert permute(np.arange(1000), 1000, 1).tolist() != permute(np.arange(1000), 1000, 2).tolist()
    # A changed permutation is a changed order contract: runs saved before could not be resumed.
    assert permute(np.arange(10), 10, 42).tolist() == [5, 2, 7, 4, 1, 0, 8, 6, 3, 9]


@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
def test_small_permutations_put_every_element_everywhere_equally_often(size):
    num_keys = 6000
    counts = np.zeros((size, size))
    for key in range(num_keys):
        counts[np.arange(size), permute(np.arange(size), size, key_of(key))] += 1
    expected = num_keys / size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert chi_squared < freedom + 6 * np.sqrt(2 * freedom)


def test_neighbours_are_separated_as_by_a_random_shuffle():
    size = 100_000
    gaps = np.abs(np.diff(permute(np.arange(size), size, 3)))
    assert gaps.mean() == pytest.approx(size / 3, rel=0.02)  # mean distance of two random places
    assert (gaps < size * 0.01).mean() == pytest.approx(0.0199, rel=0.1)


@given(keys, st.integers(1, 40))
def test_uniforms_are_a_function_of_key_and_counter(key, num_draws):
    counters = np.array([5, 2**63, 17], np.uint64)
    drawn = uniforms(key, counters, num_draws)
    assert drawn.shape == (3, num_draws)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert uniforms(key, counters[1:2], num_draws).tolist() == drawn[1:2].tolist()


def test_uniforms_are_uniform_and_uncorrelated():
    drawn = uniforms(11, np.arange(20_000), 8)
    for column in drawn.T:
        observed = np.histogram(column, bins=50, range=(0, 1))[0]
        assert ((observed - 400) ** 2 / 400).sum() < 49 + 6 * np.sqrt(98)
    correlation = np.corrcoef(drawn.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.04
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.04


def test_mix_flips_half_of_the_bits():
    words = np.arange(2000, dtype=np.uint64)
    for bit in range(0, 64, 7):
        flipped = mix(words) ^ mix(words ^ np.uint64(1 << bit))
        assert np.mean([int(word).bit_count() for word in flipped]) == pytest.approx(32, abs=0.5)


def test_keys_of_tells_tuples_of_counters_apart():
    grid = np.indices((50, 50)).reshape(2, -1)
    assert len(np.unique(np.concatenate([keys_of(5, *grid), keys_of(6, *grid), keys_of(5, grid[0])]))) == 5050


def test_key_of_tells_types_and_orders_apart():
    assert len({key_of(1, 2), key_of(2, 1), key_of("1", 2), key_of(12), key_of(1, 2, None)}) == 5

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ParamsError
from pipeline.loading.balance import balanced_order
from pipeline.loading.order import epoch_key, evaluation_steps, num_steps_per_epoch, order


@st.composite
def worlds(draw):
    """Shard sizes, a global batch, lanes, a window, an epoch, and a world that divides the batch."""
    world_size = draw(st.sampled_from([1, 2, 3, 4, 8]))
    lanes = draw(st.sampled_from([1, 2, 3, 4]))
    batch = np.lcm(world_size, lanes) * draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    while sum(sizes) // lanes < batch // lanes:
        sizes.append(40)
    window = draw(st.one_of(st.none(), st.integers(1, 60)))
    return sizes, int(batch), lanes, window, draw(st.integers(0, 5)), world_size


def epoch_of(sizes, batch, lanes, window, epoch, seed=1, digest="d"):
    return order(sizes, seed=seed, epoch=epoch, digest=digest, global_batch_size=batch, lanes=lanes, window=window)


@given(worlds())
def test_union_over_ranks_is_the_step_for_every_world_size(world):
    sizes, batch, lanes, window, epoch, world_size = world
    steps = epoch_of(sizes, batch, lanes, window, epoch)
    for step in range(steps.num_steps):
        slices = [steps.rank_step(step, rank, world_size) for rank in range(world_size)]
        assert {len(each) for each in slices} == {batch // world_size}
        assert np.concatenate(slices).tolist() == steps.step(step).tolist()


def test_the_key_of_an_epoch_is_that_of_both_orders_and_needs_no_samples():
    counts, which = [[3, 4], [5, 1]], {"seed": 3, "epoch": 2, "digest": "d"}
    balanced = balanced_order(counts, lambda shard: np.repeat([0, 1], counts[shard]), global_batch_size=4, **which)
    assert epoch_key(**which) == balanced.key == order([7, 6], global_batch_size=4, **which).key
    others = [epoch_key(**which | other) for other in ({"seed": 4}, {"epoch": 3}, {"digest": "e"})]
    assert len({epoch_key(**which), *others}) == 4


@given(worlds())
def test_no_sample_twice_and_the_remainder_is_bounded(world):
    sizes, batch, lanes, window, epoch, _ = world
    steps = epoch_of(sizes, batch, lanes, window, epoch)
    used = np.concatenate([steps.step(step) for step in range(steps.num_steps)])
    assert len(np.unique(used)) == len(used)
    assert used.min() >= 0
    assert used.max() < sum(sizes)
    assert sum(sizes) - len(used) < batch + lanes


@given(worlds(), st.data())
def test_a_resume_at_any_step_is_the_tail(world, data):
    sizes, batch, lanes, window, epoch, _ = world
    whole = epoch_of(sizes, batch, lanes, window, epoch)
    first = data.draw(st.integers(0, whole.num_steps - 1))
    resumed = epoch_of(sizes, batch, lanes, window, epoch)
    for step in range(first, whole.num_steps):
        assert resumed.step(step).tolist() == whole.step(step).tolist()


@given(worlds())
def test_lanes_read_few_shards(world):
    sizes, batch, lanes, _, epoch, _ = world
    steps = epoch_of(sizes, batch, lanes, None, epoch)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    used = np.stack([steps.step(step) for step in range(steps.num_steps)])
    by_lane = used.reshape(steps.num_steps, lanes, batch // lanes)
    shards = [set(np.searchsorted(starts, by_lane[:, lane].ravel(), side="right") - 1) for lane in range(lanes)]
    # Neighbouring lanes share at most the shard that their border cuts.
    assert sum(len(each) for each in shards) <= len(sizes) + lanes - 1


def test_every_sample_gets_its_turn_in_the_remainder():
    sizes, batch = [7, 5, 9], 6
    left_out = set()
    for epoch in range(60):
        steps = epoch_of(sizes, batch, 1, None, epoch)
        used = np.concatenate([steps.step(step) for step in range(steps.num_steps)])
        left_out |= set(range(21)) - set(used.tolist())
    assert left_out == set(range(21))


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"digest": "e"}])
def test_seed_epoch_and_digest_each_change_the_order(change):
    base = {"sizes": [50, 50], "batch": 10, "lanes": 2, "window": None, "epoch": 0}
    assert epoch_of(**base).step(0).tolist() != epoch_of(**(base | change)).step(0).tolist()


def test_a_window_keeps_samples_near_their_place():
    steps = epoch_of([1000], 10, 1, 50, 0)
    for step in range(steps.num_steps):
        window = step * 10 // 50
        assert set(steps.step(step) // 50) == {window}


def test_the_order_is_pinned():
    # Saved positions mean this order; another one is another format of runs.
    assert epoch_of([4, 4, 4], 4, 2, None, 0).step(0).tolist() == [7, 6, 2, 10]


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 7))
def test_evaluation_counts_every_sample_once_and_ranks_do_equally_many_batches(num_samples, batch, world_size):
    per_rank = [list(evaluation_steps(num_samples, batch, rank, world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in per_rank}) == 1
    counted = [number for batches in per_rank for numbers, mask in batches for number in numbers[mask].tolist()]
    assert sorted(counted) == list(range(num_samples))
    for batches in per_rank:
        for numbers, mask in batches:
            assert len(numbers) == len(mask) == batch
            assert numbers.max() < num_samples


def test_too_few_samples_for_one_batch_are_refused_with_the_way_out():
    with pytest.raises(ParamsError, match=r"global_batch_size=64 is more than the 40 training samples; use 40 or less"):
        num_steps_per_epoch(40, 64, 1)
    with pytest.raises(ParamsError, match=r"in loading.lanes=4 equal lanes; use 40 or less"):
        num_steps_per_epoch(43, 64, 4)


def test_a_billion_samples_start_in_constant_memory_per_sample():
    steps = epoch_of([10_000] * 100_000, 4096, 64, None, 3)
    assert len(np.unique(steps.step(steps.num_steps - 1))) == 4096

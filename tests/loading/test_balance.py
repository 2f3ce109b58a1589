import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ParamsError
from pipeline.loading.balance import balanced_order
from pipeline.loading.order import order


@st.composite
def sets(draw):
    """Labels by shard, of up to five classes of which some may be empty, and a global batch that they fill."""
    num_classes = draw(st.integers(1, 5))
    label = st.integers(0, num_classes - 1)
    shards = draw(st.lists(st.lists(label, min_size=1, max_size=12), min_size=1, max_size=6))
    num_samples = sum(map(len, shards))
    return [np.array(each, np.int32) for each in shards], num_classes, draw(st.integers(1, num_samples))


def epoch_of(a_set, epoch=0, seed=1, digest="d"):
    shards, num_classes, batch = a_set
    counts = [np.bincount(each, minlength=num_classes).tolist() for each in shards]
    return balanced_order(
        counts, shards.__getitem__, seed=seed, epoch=epoch, digest=digest, global_batch_size=batch
    )  # fmt: skip


def drawn(a_set, num_epochs):
    """Sample numbers and turns of the first epochs of a run."""
    epochs = [epoch_of(a_set, epoch) for epoch in range(num_epochs)]
    numbers = [steps.step(step) for steps in epochs for step in range(steps.num_steps)]
    turns = [steps.turns(step) for steps in epochs for step in range(steps.num_steps)]
    return np.concatenate(numbers), np.concatenate(turns)


@given(sets())
def test_classes_are_drawn_equally_often_at_any_point_of_a_run(a_set):
    shards, num_classes, _ = a_set
    labels = np.concatenate(shards)
    one_hot = np.eye(num_classes, dtype=int)[labels[drawn(a_set, 2)[0]]][:, np.unique(labels)]
    so_far = one_hot.cumsum(axis=0)
    assert (so_far.max(axis=1) - so_far.min(axis=1)).max() <= 1


@given(sets())
def test_a_sample_comes_again_only_after_all_of_its_class_came(a_set):
    labels = np.concatenate(a_set[0])
    numbers, turns = drawn(a_set, 3)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label).tolist()
        of_class = labels[numbers] == label
        for turn, of_pass in itertools.groupby(zip(turns[of_class], numbers[of_class], strict=True), lambda t: t[0]):
            came = [int(number) for _, number in of_pass]
            assert len(set(came)) == len(came)
            is_last = turn == turns[of_class][-1]
            assert set(came) <= set(members) if is_last else sorted(came) == members


@given(sets())
def test_an_epoch_has_the_steps_of_a_uniform_one_and_no_draw_twice(a_set):
    shards, _, batch = a_set
    steps = epoch_of(a_set)
    uniform = order([len(each) for each in shards], seed=1, epoch=0, digest="d", global_batch_size=batch)
    assert steps.num_steps == uniform.num_steps
    assert {len(steps.step(step)) for step in range(steps.num_steps)} == {batch}
    assert set(Counter(zip(*map(np.ndarray.tolist, drawn(a_set, 1)), strict=True)).values()) == {1}


@given(sets(), st.integers(1, 4), st.data())
def test_a_step_is_itself_whoever_asks_and_from_wherever(a_set, world_size, data):
    shards, num_classes, batch = a_set
    a_set = shards * world_size, num_classes, batch * world_size
    epoch = data.draw(st.integers(0, 4))
    whole = epoch_of(a_set, epoch)
    step = data.draw(st.integers(0, whole.num_steps - 1))
    alone = epoch_of(a_set, epoch)
    ranks = range(world_size)
    slices = [alone.rank_step(step, rank, world_size) for rank in ranks]
    assert np.concatenate(slices).tolist() == whole.step(step).tolist()
    assert {len(each) for each in slices} == {batch}
    turns = [alone.rank_turns(step, rank, world_size) for rank in ranks]
    assert np.concatenate(turns).tolist() == whole.turns(step).tolist()


A_SET = [np.array([0] * 30 + [1] * 2, np.int32), np.array([1] + [2] * 31, np.int32)], 4, 8


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 1}, {"digest": "e"}])
def test_seed_epoch_and_digest_each_change_the_order(change):
    assert epoch_of(A_SET, **change).step(0).tolist() != epoch_of(A_SET).step(0).tolist()


def test_a_pass_is_shuffled_anew():
    numbers, turns = drawn(A_SET, 10)
    labels = np.concatenate(A_SET[0])
    rare = labels[numbers] == 1
    passes = {tuple(numbers[rare & (turns == turn)].tolist()) for turn in range(turns[rare].max())}
    assert len(passes) == 6  # all orders of three samples come


def test_the_order_is_pinned():
    # Saved positions mean this order; another one is another format of runs.
    assert epoch_of(A_SET).step(0).tolist() == [7, 63, 32, 43, 20, 30, 25, 34]
    assert epoch_of(A_SET, 5).turns(0).tolist() == [3, 35, 3, 3, 36, 3, 3, 36]


def test_too_few_samples_for_one_batch_are_refused():
    with pytest.raises(ParamsError, match=r"global_batch_size=65 is more than the 64 training samples; use 64 or less"):
        epoch_of((*A_SET[:2], 65))


def test_a_table_is_asked_for_only_where_a_sample_lies():
    counts, asked = [[100, 0], [0, 100], [0, 0]], []

    def labels_of(shard):
        asked.append(shard)
        return np.repeat(np.arange(2, dtype=np.int32), counts[shard])

    numbers = balanced_order(counts, labels_of, seed=0, epoch=0, digest="d", global_batch_size=8).step(3)
    assert sorted(asked) == [0, 1]
    assert (numbers < 100).sum() == 4

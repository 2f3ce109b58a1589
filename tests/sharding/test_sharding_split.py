"""Splits and plans as arithmetic: properties that hold for every set of records."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sharding.plan import plan_shards
from pipeline.sharding.split import NO_SPLIT, TEST, TRAIN, VALIDATION, assign_splits, check_no_split_is_empty

FRACTIONS = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))
CONTENTS = st.lists(st.integers(0, 60), max_size=80)
GROUPS = st.sampled_from([None, "g1", "g2"])


def digests_of(contents: list) -> np.ndarray:
    raw = b"".join(hashlib.sha256(str(content).encode()).digest() for content in contents)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


@given(CONTENTS, CONTENTS, FRACTIONS, st.integers(-3, 3))
def test_adding_images_moves_no_old_one(old, new, fractions, seed):
    def splits(contents):
        nothing = [None] * len(contents)
        return assign_splits(nothing, nothing, digests_of(contents), *fractions, seed).tolist()

    assert splits(old + new)[: len(old)] == splits(old)
    assert splits(new + old)[len(new) :] == splits(old)


@given(st.lists(st.tuples(st.integers(0, 10), GROUPS), max_size=60), FRACTIONS)
def test_duplicates_and_groups_never_straddle(records, fractions):
    groups = [group for _, group in records]
    digests = digests_of([content for content, _ in records])
    splits = assign_splits([None] * len(records), groups, digests, *fractions, 0)
    for (content, group), split in zip(records, splits, strict=True):
        alike = [s for (c, g), s in zip(records, splits, strict=True) if g == group and (g or c == content)]
        assert set(alike) == {split}


@given(st.lists(st.sampled_from([None, "train", "validation", "test"]), max_size=60), FRACTIONS)
def test_a_given_split_wins_and_only_what_is_missing_is_made(given_splits, fractions):
    digests = digests_of(range(len(given_splits)))
    splits = assign_splits(given_splits, [None] * len(given_splits), digests, *fractions, 0)
    for name, split in zip(given_splits, splits, strict=True):
        if name in ("validation", "test"):
            assert split == {"validation": VALIDATION, "test": TEST}[name]
        else:
            assert split != VALIDATION or "validation" not in given_splits
            assert split != TEST or "test" not in given_splits


@pytest.mark.parametrize("seed", range(3))
def test_fractions_are_met_inside_each_class(seed):
    digests = digests_of(range(20_000))
    splits = assign_splits([None] * 20_000, [None] * 20_000, digests, 0.1, 0.2, seed)
    for part in (splits, splits[::2], splits[1::2]):
        shares = np.bincount(part, minlength=3) / len(part)
        assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.01


def test_another_seed_is_another_split():
    digests, nothing = digests_of(range(200)), [None] * 200
    splits = [assign_splits(nothing, nothing, digests, 0.3, 0.3, seed).tolist() for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_fractions_of_zero_and_all():
    digests, nothing = digests_of(range(50)), [None] * 50
    assert set(assign_splits(nothing, nothing, digests, 0.0, 0.0, 0)) == {TRAIN}
    assert set(assign_splits(nothing, nothing, digests, 0.0, 1.0, 0)) == {TEST}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((0, 1, 2), r"None of 3 images fell into the train split \(there is nothing to train on\); add images"),
        ((5, 0, 2), r"None of 7 images fell into the validation split \(split.validation_fraction=0.1\)"),
        ((5, 1, 0), r"None of 6 images fell into the test split \(split.test_fraction=0.2\); .*data.split_column"),
    ],
)
def test_an_empty_split_that_is_needed(counts, message):
    with pytest.raises(SourceError, match=message):
        check_no_split_is_empty(counts, 0.1, 0.2)


def test_an_empty_split_that_nobody_asked_for():
    check_no_split_is_empty((5, 0, 0), 0.0, 0.0)


@given(st.lists(st.integers(-1, 2), max_size=200), st.integers(1, 30), st.integers(-2, 2))
def test_every_record_is_planned_exactly_once(codes, samples_per_shard, seed):
    splits = np.array(codes, np.int8)
    plan = plan_shards(splits, digests_of(range(len(codes))), samples_per_shard, seed)
    rows = [int(row) for shard in plan for row in shard.rows]
    assert sorted(rows) == np.flatnonzero(splits != NO_SPLIT).tolist()
    keys = [shard.first_key + position for shard in plan for position in range(len(shard.rows))]
    assert keys == list(range(len(rows)))
    assert len({shard.name for shard in plan}) == len(plan)
    for shard in plan:
        assert 1 <= len(shard.rows) <= samples_per_shard
        assert {("train", "validation", "test")[splits[row]] for row in shard.rows} == {shard.split}
        assert shard.name.startswith(f"{shard.split}/{shard.split}-")


def test_a_shard_read_from_its_start_meets_all_classes():
    # As found: a thousand of one class, then a thousand of the other.
    plan = plan_shards(np.zeros(2000, np.int8), digests_of(range(2000)), 200, 0)
    shares = [np.mean(shard.rows < 1000) for shard in plan]
    assert min(shares) > 0.35
    assert max(shares) < 0.65
    other = plan_shards(np.zeros(2000, np.int8), digests_of(range(2000)), 200, 1)
    assert plan[0].rows.tolist() != other[0].rows.tolist()

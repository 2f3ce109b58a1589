"""Splits and plans as arithmetic: properties that hold for every set of records."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.sharding.plan import Taken, plan_shards
from pipeline.sharding.split import (
    FIRST_FOLD,
    NO_SPLIT,
    TEST,
    TRAIN,
    VALIDATION,
    SplitRule,
    assign_parts,
    check_no_split_is_empty,
    part_name,
    part_of,
    speaking_digests,
    splits_of,
    spread_anchors,
)

FRACTIONS = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))
CONTENTS = st.lists(st.integers(0, 60), max_size=80)
GROUPS = st.sampled_from([None, "g1", "g2"])


def assign(given, groups, digests, *rule, alike=None, anchors=None):
    """Where nothing looks alike, unless it is said; numbers in `alike` that are equal are a group."""
    alike = np.arange(len(given)) if alike is None else alike
    first = dict(zip(alike.tolist()[::-1], range(len(alike))[::-1], strict=True))
    leaders = np.array([first[number] for number in alike.tolist()], np.int32)
    parts = np.split(digests, [len(digests) // 3])
    speaking = speaking_digests(parts, leaders, digests.__getitem__)
    anchors = np.full(len(given), NO_SPLIT, np.int8) if anchors is None else anchors
    spread = spread_anchors(anchors, leaders, digests.__getitem__)
    return assign_parts(given, groups, speaking, set(given) - {None}, SplitRule(*rule), spread)


def digests_of(contents: list) -> np.ndarray:
    raw = b"".join(hashlib.sha256(str(content).encode()).digest() for content in contents)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


def contents_of(contents: list) -> np.ndarray:
    return np.ascontiguousarray(digests_of(contents)[:, :8]).view("<u8")[:, 0]


@given(CONTENTS, CONTENTS, FRACTIONS, st.integers(-3, 3))
def test_adding_images_moves_no_old_one(old, new, fractions, seed):
    def splits(contents):
        nothing = [None] * len(contents)
        return assign(nothing, nothing, digests_of(contents), *fractions, seed).tolist()

    assert splits(old + new)[: len(old)] == splits(old)
    assert splits(new + old)[len(new) :] == splits(old)


@given(st.lists(st.tuples(st.integers(0, 10), GROUPS), max_size=60), FRACTIONS)
def test_duplicates_and_groups_never_straddle(records, fractions):
    groups = [group for _, group in records]
    digests = digests_of([content for content, _ in records])
    splits = assign([None] * len(records), groups, digests, *fractions, 0)
    for (content, group), split in zip(records, splits, strict=True):
        alike = [s for (c, g), s in zip(records, splits, strict=True) if g == group and (g or c == content)]
        assert set(alike) == {split}


ALIKE = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), max_size=60, unique_by=lambda record: record[0])


@given(ALIKE, FRACTIONS)
def test_near_duplicates_never_straddle(records, fractions):
    alike = np.array([group for _, group in records], np.int64)
    nothing = [None] * len(records)
    splits = assign(nothing, nothing, digests_of([content for content, _ in records]), *fractions, 0, alike=alike)
    for group in set(alike.tolist()):
        assert len(set(splits[alike == group].tolist())) == 1


@given(ALIKE, ALIKE, FRACTIONS)
def test_a_new_image_moves_no_old_one_but_its_own_near_duplicates(old, new, fractions):
    new = [(content + 1000, group) for content, group in new]

    def splits(records):
        nothing = [None] * len(records)
        alike = np.array([group for _, group in records], np.int64)
        return assign(nothing, nothing, digests_of([content for content, _ in records]), *fractions, 0, alike=alike)

    touched = {group for _, group in new}
    before, after = splits(old), splits(new + old)[len(new) :]
    for (_, group), split, split_now in zip(old, before, after, strict=True):
        assert split == split_now or group in touched


def test_groups_of_near_duplicates_meet_the_fractions():
    nothing = [None] * 30_000
    splits = assign(nothing, nothing, digests_of(range(30_000)), 0.1, 0.2, 0, alike=np.arange(30_000) // 3)
    assert np.abs(np.bincount(splits, minlength=3) / 30_000 - [0.7, 0.1, 0.2]).max() < 0.015


def test_a_users_group_goes_before_near_duplicates():
    digests, groups = digests_of(range(40)), [f"patient {row % 20}" for row in range(40)]
    apart = assign([None] * 40, groups, digests, 0.3, 0.3, 0)
    together = assign([None] * 40, groups, digests, 0.3, 0.3, 0, alike=np.zeros(40, np.int64))
    assert apart.tolist() == together.tolist()
    assert len(set(apart.tolist())) == 3


@given(st.lists(st.sampled_from([None, "train", "validation", "test"]), max_size=60), FRACTIONS)
def test_a_given_split_wins_and_only_what_is_missing_is_made(given_splits, fractions):
    digests = digests_of(range(len(given_splits)))
    splits = assign(given_splits, [None] * len(given_splits), digests, *fractions, 0)
    for name, split in zip(given_splits, splits, strict=True):
        if name in ("validation", "test"):
            assert split == {"validation": VALIDATION, "test": TEST}[name]
        else:
            assert split != VALIDATION or "validation" not in given_splits
            assert split != TEST or "test" not in given_splits


@pytest.mark.parametrize("seed", range(3))
def test_fractions_are_met_inside_each_class(seed):
    digests = digests_of(range(20_000))
    splits = assign([None] * 20_000, [None] * 20_000, digests, 0.1, 0.2, seed)
    for part in (splits, splits[::2], splits[1::2]):
        shares = np.bincount(part, minlength=3) / len(part)
        assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 0.01


def test_another_seed_is_another_split():
    digests, nothing = digests_of(range(200)), [None] * 200
    splits = [assign(nothing, nothing, digests, 0.3, 0.3, seed).tolist() for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_fractions_of_zero_and_all():
    digests, nothing = digests_of(range(50)), [None] * 50
    assert set(assign(nothing, nothing, digests, 0.0, 0.0, 0)) == {TRAIN}
    assert set(assign(nothing, nothing, digests, 0.0, 1.0, 0)) == {TEST}


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
        check_no_split_is_empty(counts, SplitRule(0.1, 0.2, 0))


def test_an_empty_fold_is_named():
    with pytest.raises(
        SourceError, match=r"None of 5 images fell into the validation split \(split.fold=3 of split.fo"
    ):
        check_no_split_is_empty((5, 0, 0), SplitRule(0.0, 0.0, 0, folds=4, fold=3))


def test_an_empty_split_that_nobody_asked_for():
    check_no_split_is_empty((5, 0, 0), SplitRule(0.0, 0.0, 0))


@given(st.lists(st.integers(-1, 2), max_size=200), st.integers(1, 30), st.integers(-2, 2))
def test_every_record_is_planned_exactly_once(codes, samples_per_shard, seed):
    splits = np.array(codes, np.int8)
    plan = plan_shards(splits, contents_of(range(len(codes))), samples_per_shard, seed)
    rows = [int(row) for shard in plan for row in shard.rows]
    assert sorted(rows) == np.flatnonzero(splits != NO_SPLIT).tolist()
    keys = [shard.first_key + position for shard in plan for position in range(len(shard.rows))]
    assert keys == list(range(len(rows)))
    assert len({shard.name for shard in plan}) == len(plan)
    for shard in plan:
        assert 1 <= len(shard.rows) <= samples_per_shard
        (split,) = {("train", "validation", "test")[splits[row]] for row in shard.rows}
        assert shard.name.startswith(f"{split}/{split}-")


def test_keys_and_numbers_that_are_taken_are_not_used_again():
    taken = Taken(100, {"train": 3})
    plan = plan_shards(np.array([TRAIN, TEST, TRAIN, NO_SPLIT], np.int8), contents_of(range(4)), 1, 0, taken)
    assert [shard.name for shard in plan] == ["train/train-000003", "train/train-000004", "test/test-000000"]
    assert [shard.first_key for shard in plan] == [100, 101, 102]


def test_keys_that_do_not_suffice_are_said():
    plan_shards(np.zeros(2, np.int8), contents_of(range(2)), 9, 0, Taken(10**9 - 2))
    with pytest.raises(
        SourceError, match=r"need 1,000,000,001 keys, and a key has 9 digits; `convoy compact` gives those"
    ):
        plan_shards(np.zeros(3, np.int8), contents_of(range(3)), 9, 0, Taken(10**9 - 2))


def test_a_shard_read_from_its_start_meets_all_classes():
    # As found: a thousand of one class, then a thousand of the other.
    plan = plan_shards(np.zeros(2000, np.int8), contents_of(range(2000)), 200, 0)
    shares = [np.mean(shard.rows < 1000) for shard in plan]
    assert min(shares) > 0.35
    assert max(shares) < 0.65
    other = plan_shards(np.zeros(2000, np.int8), contents_of(range(2000)), 200, 1)
    assert plan[0].rows.tolist() != other[0].rows.tolist()


def folds_of(records, rule: SplitRule) -> list[list[int]]:
    """The splits of (content, group, number of what looks alike), for each fold in turn."""
    groups = [group for _, group, _ in records]
    alike, digests = np.array([each for *_, each in records], np.int64), digests_of([each for each, *_ in records])
    parts = assign([None] * len(records), groups, digests, *rule, alike=alike)
    return [splits_of(parts, fold).tolist() for fold in range(rule.folds)]


RECORDS = st.lists(st.tuples(st.integers(0, 30), GROUPS, st.integers(0, 8)), max_size=60)


@given(RECORDS, st.integers(2, 7), st.floats(0, 0.9))
def test_each_image_is_tested_in_all_folds_or_validated_in_one_and_trained_on_in_the_others(records, folds, fraction):
    for of_record in zip(*folds_of(records, SplitRule(0.1, fraction, 0, folds=folds)), strict=True):
        assert set(of_record) == {TEST} or (of_record.count(VALIDATION), of_record.count(TRAIN)) == (1, folds - 1)


@given(RECORDS, st.integers(2, 7), st.sampled_from(["group", "alike"]))
def test_what_belongs_together_is_in_one_fold(records, folds, what):
    records = [(content, group if what == "group" else None, each) for content, group, each in records]
    for splits in folds_of(records, SplitRule(0.1, 0.1, 0, folds=folds)):
        by_name = {}
        for (_, group, each), split in zip(records, splits, strict=True):
            by_name.setdefault(group if what == "group" else each, set()).add(split)
        assert all(len(found) == 1 for name, found in by_name.items() if name is not None)


def test_folds_are_equal_inside_each_class():
    records = [(number, None, number) for number in range(20_000)]
    for splits in folds_of(records, SplitRule(0.3, 0.2, 0, folds=5)):
        for of_class in (splits[::2], splits[1::2]):
            shares = np.bincount(of_class, minlength=3) / len(of_class)
            assert np.abs(shares - [0.64, 0.16, 0.2]).max() < 0.012


def test_folds_leave_the_test_split_as_it_is_without_them():
    digests, nothing = digests_of(range(500)), [None] * 500
    without = assign(nothing, nothing, digests, 0.2, 0.3, 0)
    with_folds = assign(nothing, nothing, digests, 0.2, 0.3, 0, True, 4, 1)
    assert ((without == TEST) == (with_folds == TEST)).all()


def test_folds_of_a_source_that_fixes_the_validation_split():
    rule = SplitRule(0.1, 0.1, 0, folds=4, fold=0)
    with pytest.raises(
        SourceError, match=r"split.folds=4 makes the validation split of each fold in turn, but the sou"
    ):
        assign(["validation", "train"], [None] * 2, digests_of([1, 2]), *rule)
    parts = assign(["test", "train", "train"], [None] * 3, digests_of([1, 2, 3]), *rule)
    assert parts[0] == TEST
    assert (parts[1:] >= FIRST_FOLD).all()


def test_the_name_of_a_part_and_the_part_of_a_name():
    names = [part_name(part) for part in range(FIRST_FOLD + 12)]
    assert names[:4] + names[-1:] == ["train", "validation", "test", "fold-0", "fold-11"]
    assert [part_of(f"{name}/{name}-000001") for name in names] == list(range(FIRST_FOLD + 12))


def test_an_anchored_image_stays_and_draws_its_look_alikes():
    digests, nothing, alike = digests_of(range(60)), [None] * 60, np.arange(60) // 2
    free = assign(nothing, nothing, digests, 0.3, 0.3, 0, alike=alike)

    def anchored(anchors, groups=nothing):
        return assign(nothing, groups, digests, 0.3, 0.3, 0, alike=alike, anchors=np.array(anchors, np.int8))

    assert (anchored(np.where(np.arange(60) % 2, NO_SPLIT, (free + 1) % 3)) == (free + 1) % 3).all()
    both = [TEST, TRAIN] * 30
    assert anchored(both).tolist() == both, "old ones never move"
    assert len(set(anchored(both, ["g"] * 60))) == 1, "a group goes by its name"


def test_of_anchors_that_disagree_the_one_with_the_smallest_digest_draws_the_new_ones():
    digests, nothing = digests_of(range(3)), [None] * 3
    for anchors in ([TEST, TRAIN, NO_SPLIT], [TRAIN, TEST, NO_SPLIT]):
        smallest = min((0, 1), key=lambda row: digests[row].tobytes())
        parts = assign(
            nothing, nothing, digests, 0.3, 0.3, 0, alike=np.zeros(3, int), anchors=np.array(anchors, np.int8)
        )
        assert parts.tolist() == [*anchors[:2], anchors[smallest]]

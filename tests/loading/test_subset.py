import contextlib

import numpy as np
import pytest
import shard_sets
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import Shard
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.loading.subset import subset_counts, subset_rows

fractions = st.floats(0.001, 1.0)
labels_of_a_shard = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)


def shard(labels, name="train/train-000000", num_classes=4):
    counts = np.bincount(labels, minlength=num_classes).tolist()
    return Shard(
        name=name, num_samples=len(labels), num_bytes=0, sha256="", table_sha256="", class_counts=counts
    )  # fmt: skip


@given(labels_of_a_shard, fractions)
def test_the_rows_are_as_many_of_each_class_as_was_counted(labels, fraction):
    rows = subset_rows(shard(labels), labels, fraction)
    assert sorted(set(rows.tolist())) == rows.tolist()
    (counts,) = subset_counts([shard(labels)], fraction)
    assert np.bincount(labels[rows], minlength=4).tolist() == counts
    assert (np.abs(np.array(counts) - fraction * np.bincount(labels, minlength=4)) < 1).all()


@given(labels_of_a_shard, fractions, fractions)
def test_a_smaller_part_lies_within_a_larger_one(labels, one, other):
    smaller, larger = (set(subset_rows(shard(labels), labels, each).tolist()) for each in sorted([one, other]))
    assert smaller <= larger


@given(labels_of_a_shard)
def test_the_whole_is_everything(labels):
    assert subset_rows(shard(labels), labels, 1.0).tolist() == list(range(len(labels)))


def test_each_class_keeps_its_share_over_many_shards_however_few_a_shard_has():
    shards = [shard(np.repeat(np.arange(4), [1, 3, 40, 400]), f"train/train-{at:06d}") for at in range(500)]
    kept = np.sum(subset_counts(shards, 0.1), axis=0)
    assert kept == pytest.approx([50, 150, 2000, 20_000], rel=0.25)
    assert kept[2:] == pytest.approx([2000, 20_000], rel=0.01)


def test_shards_choose_apart_and_classes_too():
    labels = np.repeat([0, 1], 50)
    one, other = (subset_rows(shard(labels, name), labels, 0.3).tolist() for name in ("a", "b"))
    assert one != other
    assert [row + 50 for row in one if row < 50] != [row for row in one if row >= 50]


def test_the_choice_is_pinned():
    # Saved positions mean this choice; another one is another format of runs.
    labels = np.arange(30) % 3
    assert subset_rows(shard(labels), labels, 0.2).tolist() == [1, 4, 9, 14, 27, 29]


@pytest.fixture
def index_path(tmp_path):
    return shard_sets.write(tmp_path, {"train": [30, 1, 25, 40], "validation": [5]}, num_classes=3)


def test_a_reader_of_a_part_hands_out_that_part_and_no_more(index_path):
    with contextlib.closing(SplitReader(index_path, "train", fraction=0.2)) as reader:
        shards, rows = reader.locate(np.arange(reader.num_samples))
        assert np.bincount(shards, minlength=4).tolist() == reader.shard_sizes
        assert np.bincount(rows["label"], minlength=3).tolist() == reader.class_counts
        assert 15 <= reader.num_samples <= 24
        for at in range(4):
            assert reader.labels(at).tolist() == rows["label"][shards == at].tolist()
        assert len({reader.image_bytes(*each) for each in zip(shards.tolist(), rows, strict=True)}) == len(rows)
    with contextlib.closing(SplitReader(index_path, "train", fraction=0.5)) as reader:
        assert set(rows["key"]) < set(reader.locate(np.arange(reader.num_samples))[1]["key"])


def test_an_epoch_of_a_part_uses_each_of_its_samples_once(index_path):
    reader = SplitReader(index_path, "train", fraction=0.1)
    assert 0 in reader.shard_sizes  # shards that keep nothing are passed over
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=3)
    used = np.concatenate([reader.locate(steps.step(step))[1]["key"] for step in range(steps.num_steps)])
    assert len(set(used)) == len(used) == reader.num_samples // 3 * 3

"""The tables of multi-label sets: any labels come back as they were given, and the counts are theirs."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sample_table
from pipeline.artifacts import Shard
from pipeline.errors import ArtifactError

LABELS_OF_ROWS = st.integers(1, 20).flatmap(
    lambda num_classes: st.tuples(
        st.just(num_classes), st.lists(st.sets(st.integers(0, num_classes - 1)).map(sorted), min_size=1, max_size=9)
    )
)


def table_of(num_classes: int, labels: list[list[int]]) -> np.ndarray:
    rows = [(key, 0, 0, 0, 0, sample_table.pack_labels(each, num_classes)) for key, each in enumerate(labels)]
    return np.array(rows, sample_table.multi_label_dtype(num_classes))


def parsed(table: np.ndarray, class_counts: list[int]) -> np.ndarray:
    from hashlib import sha256

    file = io.BytesIO()
    np.save(file, table)
    data = file.getvalue()
    shard = Shard(
        name="train/train-000000", num_samples=len(table), num_bytes=0, sha256="",
        table_sha256=sha256(data).hexdigest(), class_counts=class_counts,
    )  # fmt: skip
    return sample_table.parse_sample_table(data, shard, "a table")


@given(LABELS_OF_ROWS)
def test_labels_come_back(case):
    num_classes, labels = case
    table = table_of(num_classes, labels)
    counts = sample_table.count_classes(table, num_classes)
    table = parsed(table, counts)
    assert [sample_table.labels_of(row) for row in table] == labels
    hot_NK = sample_table.multi_hot(table, num_classes)
    assert hot_NK.shape == (len(labels), num_classes)
    assert [np.flatnonzero(hot_K).tolist() for hot_K in hot_NK] == labels
    assert counts == [sum(label in each for each in labels) for label in range(num_classes)]


def test_a_bit_is_where_the_format_says():
    """Other programs may read these tables."""
    assert sample_table.pack_labels([0, 3, 8], 9).tolist() == [0b1001, 0b1]
    assert sample_table.multi_label_dtype(9)["labels"].shape == (2,)


def test_one_label_a_row_is_what_it_was():
    table = np.array([(7, 512, 9, 1536, 2, 1)], sample_table.SAMPLE_DTYPE)
    assert not sample_table.is_multi_label(table)
    assert sample_table.labels_of(table[0]) == 1
    assert sample_table.count_classes(table, 3) == [0, 1, 0]
    assert sample_table.SAMPLE_DTYPE.descr[-1] == ("label", "<i4")
    assert sample_table.SAMPLE_DTYPE.itemsize == 36


def test_a_table_for_another_number_of_classes_is_refused():
    with pytest.raises(ArtifactError, match="the index says 1 samples"):
        parsed(table_of(9, [[0]]), [1] * 8)

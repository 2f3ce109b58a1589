"""The report of a multi-label set: what it says, which mistakes it shows, and that names cannot run in it."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from audits import NO_PICTURES, audit_with

from pipeline import artifacts
from pipeline.evaluation.gallery import surest_wrong_answers
from pipeline.evaluation.labels import measure_labels
from pipeline.evaluation.labels_report import render_labels
from pipeline.evaluation.report import Evaluated

HOSTILE = "<script>alert(1)</script>"
CLASSES, THRESHOLDS = ["cat", HOSTILE, "never"], [0.5, 0.5, 0.5]


def table_of(probabilities_NK, labels: list[list[int]]) -> pa.Table:
    said = [np.flatnonzero(np.array(row) >= 0.5).tolist() for row in probabilities_NK]
    lists = pa.list_(pa.int32())
    return pa.table(
        {
            "key": pa.array(range(len(labels)), pa.uint64()),
            "path": [f"photos/{n}.jpg" for n in range(len(labels))],
            "labels": pa.array(labels, lists),
            "predicted": pa.array(said, lists),
            "correct": [a == b for a, b in zip(said, labels, strict=True)],
            "loss": [0.1] * len(labels),
            "probabilities": pa.array(probabilities_NK, pa.list_(pa.float64())),
            "slice_site": ["north", "south"] * (len(labels) // 2),
        }
    )


WRONG = [[0.9, 0.95, 0.1], [0.02, 0.6, 0.1], [0.6, 0.2, 0.1], [0.1, 0.9, 0.1]]
LABELS = [[0], [0, 1], [], [1]]


@pytest.fixture
def mistakes(encoded):
    return surest_wrong_answers(
        table_of(WRONG, LABELS), CLASSES, THRESHOLDS, 2, lambda keys: dict.fromkeys(keys, encoded((9, 9, 9)))
    )


def test_the_surest_wrong_answer_of_each_image_is_shown_the_surest_first(mistakes):
    assert [(each.path, each.class_name, each.is_labelled) for each in mistakes] == [
        ("photos/1.jpg", "cat", True),
        ("photos/0.jpg", HOSTILE, False),
    ]
    assert [each.probability for each in mistakes] == [0.02, 0.95]
    assert (mistakes[0].labels, mistakes[0].predicted) == (f"cat, {HOSTILE}", HOSTILE)
    assert (mistakes[1].labels, mistakes[1].predicted) == ("cat", f"cat, {HOSTILE}")


def page_of(table, mistakes, history, run_record) -> str:
    index_digest = hashlib.sha256(b"index").hexdigest()
    metrics = measure_labels(
        table, CLASSES, THRESHOLDS, split="test", index_digest=index_digest, weights_sha256="f" * 64
    )
    counts = [sum(label in each for each in table["labels"].to_pylist()) for label in range(3)]
    shard = artifacts.Shard(
        name="test/test-000000",
        num_samples=table.num_rows,
        num_bytes=1,
        sha256="",
        table_sha256="",
        class_counts=counts,
    )
    index = artifacts.Index(
        classes=CLASSES, multi_label=True, image_extension="jpg", num_channels=3, mean=[0.5] * 3, std=[0.25] * 3,
        metadata_columns=["site"], splits={"train": [shard], "test": [shard]}, num_records=2 * table.num_rows,
        num_rejects=0, digest=index_digest,
    )  # fmt: skip
    sizes = pa.array(np.full(table.num_rows, 32), pa.int32())
    history |= {"validation_top1": [float("nan")] * 3, "validation_mean_ap": [0.5, 0.8, 0.9]}
    return render_labels(
        Evaluated(
            table, pa.table({"width": sizes, "height": sizes}), metrics, index, run_record(index_digest), history,
            mistakes, audit_with(), NO_PICTURES, mirror=False,
        )
    )  # fmt: skip


def test_the_page_has_every_figure_and_nothing_in_it_runs(mistakes, history, run_record):
    page = page_of(table_of(WRONG, LABELS), mistakes, history, run_record)
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "reaches a mean average precision of 0.667 on 4 test images" in page
    assert "It says exactly the classes of 25.0" in page
    assert "2 of 3 images with a wrong answer" in page
    assert "1 of 3 classes have no test image" in page
    assert "Exact by value of each metadata column" in page
    assert "mAP by epoch: validation ends at 90 %" in page
    for word in ("Confusion", "Top-1", "ECE", "nan"):
        assert word not in page, word
    assert "4 test images: the interval of mAP is" in page


def test_counts_of_images_are_of_images_and_not_of_labels(mistakes, history, run_record):
    page = page_of(table_of(WRONG, LABELS), mistakes, history, run_record)
    assert "<dt>Test images</dt><dd>4</dd>" in page


def test_a_model_that_makes_no_mistake_has_no_gallery(history, run_record):
    right = table_of([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1]] * 10, [[0], [1]] * 10)
    page = page_of(right, [], history, run_record)
    assert 'id="mistakes"' not in page
    assert "mean average precision of 1.000 on 20 test images; every resample of them gives the same" in page
    assert "95\u202f% confidence" not in page
    assert "There are only 20 test images." in page
    assert "says exactly the classes of 100" in page


def test_a_model_that_guesses_is_told_so(history, run_record):
    random = np.random.default_rng(0)
    labels = [np.flatnonzero(row < 0.5).tolist() for row in random.random((40, 2))]
    page = page_of(table_of(random.random((40, 3)).tolist(), labels), [], history, run_record)
    assert "Guessing would reach a mean average precision of about 0." in page

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from pipeline.evaluation import metrics
from pipeline.evaluation.calibrate import reliability

RNG = np.random.default_rng(1)


def measured(table, num_classes):
    names = [f"c{k}" for k in range(num_classes)]
    return metrics.measure(table, names, split="test", index_digest="i", weights_sha256="w")


@pytest.mark.parametrize(("num_classes", "num_samples"), [(2, 30), (3, 200), (10, 500), (50, 120)])
def test_figures_agree_with_scikit_learn(predictions, num_classes, num_samples):
    """With 50 classes and 120 samples some classes are absent, some never predicted."""
    labels_N = RNG.integers(0, num_classes, num_samples)
    distinct_NK = RNG.permuted(np.tile(np.arange(256), (num_samples, 1)), axis=1)  # ties go another way there
    pixels_NK = distinct_NK[:, :num_classes]
    table = predictions(pixels_NK, labels_N, top_k=num_classes)
    found = measured(table, num_classes)
    predicted_N, every = table["predicted"].to_numpy(), np.arange(num_classes)
    precision_K, recall_K, f1_K, support_K = sk.precision_recall_fscore_support(
        labels_N, predicted_N, labels=every, zero_division=0
    )
    for label, figures in enumerate(found.per_class.values()):
        expected = {"precision": precision_K[label], "recall": recall_K[label], "f1": f1_K[label]}
        assert figures == pytest.approx({**expected, "support": support_K[label]}, abs=1e-12)
    macro = sk.precision_recall_fscore_support(labels_N, predicted_N, average="macro", zero_division=0)[:3]
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == pytest.approx(macro, abs=1e-12)
    assert found.top1 == pytest.approx(sk.accuracy_score(labels_N, predicted_N), abs=1e-12)
    probability_NK = np.zeros((num_samples, num_classes))
    np.put_along_axis(
        probability_NK, np.array(table["top_labels"].to_pylist()), np.array(table["top_probabilities"].to_pylist()), 1
    )
    assert found.loss == pytest.approx(sk.log_loss(labels_N, probability_NK, labels=every), abs=1e-12)
    if num_classes > 5:
        expected = sk.top_k_accuracy_score(labels_N, probability_NK, k=5, labels=every)
        assert found.top5 == pytest.approx(expected, abs=1e-12)
    else:
        assert found.top5 == 1.0


def test_confusion_agrees_with_scikit_learn():
    labels_N, predicted_N = RNG.integers(0, 4, 300), RNG.integers(0, 3, 300)
    pairs = metrics.confusion(labels_N.astype(np.int32), predicted_N.astype(np.int32), 5)
    count_KK = np.zeros((5, 5), int)
    count_KK[pairs.actual_P, pairs.predicted_P] = pairs.count_P
    np.testing.assert_array_equal(count_KK, sk.confusion_matrix(labels_N, predicted_N, labels=np.arange(5)))


def test_ten_thousand_classes_need_no_square():
    labels_N = np.arange(10_000, dtype=np.int32)
    pairs = metrics.confusion(labels_N, labels_N[::-1].copy(), 100_000)
    assert pairs.actual_P[-1] == 9_999
    assert pairs.predicted_P[-1] == 0
    assert len(pairs.count_P) == 10_000


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    answers=st.lists(st.integers(0, 4), min_size=12, max_size=12),
)
def test_every_figure_is_a_number_between_its_bounds(predictions, labels, answers):
    """One sample, one class in the split, classes that are absent or never predicted: all within the draws."""
    pixels_NK = np.zeros((len(labels), 5), int)
    pixels_NK[np.arange(len(labels)), answers[: len(labels)]] = 9
    found = measured(predictions(pixels_NK, np.array(labels)), 5)
    plain = json.loads(json.dumps(found.model_dump(), allow_nan=False))
    for name in ("top1", "top5", "macro_precision", "macro_recall", "macro_f1", "ece"):
        assert 0.0 <= plain[name] <= 1.0
    assert 0.0 <= found.top1_low <= found.top1 <= found.top1_high <= 1.0
    assert found.top1_low < found.top1_high
    assert sum(figures["support"] for figures in found.per_class.values()) == len(labels)


def test_a_class_that_is_never_predicted_counts_as_zero(predictions):
    found = measured(predictions(np.array([[9, 0], [9, 0]]), np.array([0, 1])), 2)
    assert found.per_class["c1"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0}
    assert found.macro_recall == 0.5


def test_a_class_outside_the_split_leaves_the_macro_alone(predictions):
    found = measured(predictions(np.array([[9, 0, 0]] * 4), np.array([0] * 4)), 3)
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == (1.0, 1.0, 1.0)
    assert found.per_class["c2"]["support"] == 0.0


def test_the_interval_is_that_of_resampling_the_samples():
    rng, correct_N = np.random.default_rng(5), np.arange(150) < 120
    resampled = correct_N[rng.integers(0, 150, (20_000, 150))].mean(axis=1)
    assert metrics.interval(120, 150) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.008)
    assert metrics.interval(120, 150) == metrics.interval(120, 150)


@pytest.mark.parametrize("num_samples", [1, 20, 500])
def test_the_interval_of_a_perfect_or_hopeless_model_is_that_of_clopper_and_pearson(num_samples):
    from scipy import stats

    exact = stats.binomtest(num_samples, num_samples).proportion_ci(0.95, method="exact")
    assert metrics.interval(num_samples, num_samples) == pytest.approx((exact.low, exact.high), abs=1e-12)
    low, high = metrics.interval(0, num_samples)
    assert (1 - high, 1 - low) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_calibration_error_by_hand():
    """Bins of 1/15: 0.05 alone; 0.62 and 0.64 together, one of them right; 0.95 and 1.0 together, both right."""
    bins = reliability(np.array([0.05, 0.62, 0.64, 0.95, 1.0]), np.array([False, True, False, True, True]))
    assert bins.ece == pytest.approx((0.05 + abs(1 - 1.26) + abs(2 - 1.95)) / 5, abs=1e-12)
    assert bins.overconfidence == pytest.approx((3.26 - 3) / 5, abs=1e-12)
    assert bins.count_M[[0, 9, 14]].tolist() == [1, 2, 2]


def test_a_confidence_on_a_border_belongs_to_the_bin_below():
    bins = reliability(np.array([0.0, 0.25, 0.5, 1.0]), np.ones(4, bool), num_bins=4)
    assert bins.count_M.tolist() == [2, 1, 0, 1]


def test_slices_count_by_value_and_name_the_missing():
    correct_N = np.array([True, False, True, True, False])
    found = metrics.by_value(pa.chunked_array([["b", "a"], ["b", None, None]], pa.string()), correct_N)
    assert found == {
        metrics.MISSING: {"num_samples": 2.0, "top1": 0.5},
        "a": {"num_samples": 1.0, "top1": 0.0},
        "b": {"num_samples": 2.0, "top1": 1.0},
    }


def test_rare_values_of_a_column_are_pooled():
    values = [f"v{n:03d}" for n in range(150)] + ["v149"]
    found = metrics.by_value(pa.chunked_array([values]), np.arange(151) != 120)
    assert len(found) == metrics.MAX_SLICE_VALUES + 1
    assert found["v149"] == {"num_samples": 2.0, "top1": 1.0}
    assert found["(50 rarer values)"] == {"num_samples": 50.0, "top1": 0.98}
    assert sum(row["num_samples"] for row in found.values()) == 151

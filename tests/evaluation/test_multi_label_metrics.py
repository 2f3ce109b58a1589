"""Predictions and figures of a multi-label split, against scikit-learn and by hand."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from pipeline.errors import ModelError
from pipeline.evaluation.labels import interval, measure_labels, multi_hot, predict_labels

NUM_SAMPLES, CLASSES = 60, ["a", "b", "c", "never"]
THRESHOLDS = [0.5, 0.3, 0.7, 0.5]


class Batch:
    def __init__(self, logits_BK, hot_BK, mask_B, keys_B):
        self.images_BCHW = torch.zeros((len(logits_BK), 1, 1, 1), dtype=torch.uint8)
        self.logits_BK, self.labels_B, self.mask_B, self.keys_B = logits_BK, hot_BK, mask_B, keys_B


class Says(torch.nn.Module):
    """Answers what the batches say, one after the other."""

    def __init__(self, batches):
        super().__init__()
        self._answers = iter([batch.logits_BK for batch in batches])

    def forward(self, images_BCHW):
        return next(self._answers)


@pytest.fixture
def case():
    random = np.random.default_rng(0)
    hot_NK = (random.random((NUM_SAMPLES, 4)) < [0.5, 0.3, 0.1, 0.0]).astype(np.uint8)
    logits_NK = random.normal(2.0 * hot_NK - 1.0, 1.5)
    return logits_NK, hot_NK


def predicted(logits_NK, hot_NK, batch_size=7, seed=1):
    """In batches of shuffled keys, each with one row of padding."""
    keys_N, batches = np.random.default_rng(seed).permutation(NUM_SAMPLES).astype(np.uint64), []
    for start in range(0, NUM_SAMPLES, batch_size):
        rows = np.append(keys_N[start : start + batch_size], keys_N[0]).astype(int)
        mask_B = torch.arange(len(rows)) < len(rows) - 1
        logits_BK, hot_BK = torch.from_numpy(logits_NK[rows]), torch.from_numpy(hot_NK[rows])
        batches.append(Batch(logits_BK, hot_BK, mask_B, rows.astype(np.uint64)))
    return predict_labels(
        Says(batches), batches, classes=CLASSES, mean=[0.5], std=[0.2], thresholds=THRESHOLDS, device="cpu"
    )


def measured(table):
    return measure_labels(table, CLASSES, THRESHOLDS, split="test", index_digest="d", weights_sha256="w")


def test_a_row_says_what_the_image_has_and_what_the_model_says(case):
    logits_NK, hot_NK = case
    table = predicted(*case)
    probabilities_NK = 1.0 / (1.0 + np.exp(-logits_NK))
    said_NK = probabilities_NK >= THRESHOLDS
    assert table["key"].to_pylist() == list(range(NUM_SAMPLES))
    assert table["labels"].to_pylist() == [np.flatnonzero(hot_K).tolist() for hot_K in hot_NK]
    assert table["predicted"].to_pylist() == [np.flatnonzero(said_K).tolist() for said_K in said_NK]
    np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), probabilities_NK, rtol=1e-12)
    assert table["correct"].to_pylist() == (said_NK == hot_NK).all(axis=1).tolist()
    losses_NK = -np.where(hot_NK, np.log(probabilities_NK), np.log(1.0 - probabilities_NK))
    np.testing.assert_allclose(table["loss"].to_numpy(), losses_NK.mean(axis=1), rtol=1e-9)
    assert json.loads(table.schema.metadata[b"classes"]) == CLASSES
    assert np.array_equal(multi_hot(table["labels"], 4), hot_NK)


def test_figures_are_those_of_scikit_learn(case):
    logits_NK, hot_NK = case
    metrics = measured(predicted(*case))
    said_NK = 1.0 / (1.0 + np.exp(-logits_NK)) >= THRESHOLDS
    precisions = [average_precision_score(hot_NK[:, k], logits_NK[:, k]) for k in range(3)]
    assert metrics.mean_ap == pytest.approx(np.mean(precisions))
    assert [metrics.per_class[name]["ap"] for name in CLASSES[:3]] == pytest.approx(precisions)
    assert "ap" not in metrics.per_class["never"]
    each = precision_recall_fscore_support(hot_NK, said_NK, zero_division=0.0)
    for name, of_class in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert [metrics.per_class[each][name] for each in CLASSES] == pytest.approx(of_class.tolist()), name
    micro = precision_recall_fscore_support(hot_NK, said_NK, average="micro")
    assert (metrics.micro_precision, metrics.micro_recall, metrics.micro_f1) == pytest.approx(micro[:3])
    assert metrics.exact_match == pytest.approx((said_NK == hot_NK).all(axis=1).mean())
    assert [metrics.per_class[name]["threshold"] for name in CLASSES] == THRESHOLDS


def test_how_the_split_is_cut_into_batches_plays_no_part(case):
    assert measured(predicted(*case)) == measured(predicted(*case, batch_size=13, seed=2))


def test_the_interval_is_that_of_resampling(case):
    logits_NK, hot_NK = (each[:, :3] for each in case)
    low, high = interval(logits_NK, hot_NK)
    random, found = np.random.default_rng(7), []
    for _ in range(300):
        rows = random.integers(0, NUM_SAMPLES, NUM_SAMPLES)
        found.append(np.mean([average_precision_score(hot_NK[rows, k], logits_NK[rows, k]) for k in range(3)]))
    assert (low, high) == pytest.approx(np.quantile(found, [0.025, 0.975]).tolist(), abs=0.03)
    assert low < measured(predicted(*case)).mean_ap < high


def test_an_answer_that_is_no_number_is_named(case):
    logits_NK, hot_NK = case
    logits_NK[11, 2] = np.nan
    with pytest.raises(ModelError, match=r"answer for sample 11 is not a number; .* Run `convoy verify`"):
        predicted(logits_NK, hot_NK)

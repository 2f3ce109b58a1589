"""Every figure of the report, from the predictions table alone: numpy, sums first, one division at the end.

Shapes: N samples, K classes, P pairs (actual, predicted) that occur. Nothing is K x K: ten thousand classes are fine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.evaluation.calibrate import reliability
from pipeline.evaluation.samples import SLICE
from pipeline.metrics import Metrics

NUM_RESAMPLES = 10_000
MAX_SLICE_VALUES = 100
"""Values of one metadata column that are told apart; rarer ones are pooled."""
MISSING = "(missing)"


@dataclass(frozen=True)
class Confusion:
    """How often each pair occurs, sorted by actual, then predicted label."""

    actual_P: np.ndarray
    predicted_P: np.ndarray
    count_P: np.ndarray


@dataclass(frozen=True)
class PerClass:
    """One value a class; 0 where a figure is undefined (never predicted, or not in the split)."""

    precision_K: np.ndarray
    recall_K: np.ndarray
    f1_K: np.ndarray
    support_K: np.ndarray
    num_predicted_K: np.ndarray

    @property
    def occurring(self) -> np.ndarray:
        """Classes that macro averages count: those in the split and those that were predicted (as scikit-learn)."""
        return (self.support_K + self.num_predicted_K) > 0


def measure(table: pa.Table, classes: Sequence[str], *, split: str, index_digest: str, weights_sha256: str) -> Metrics:
    """All figures of the predictions `table`, which holds at least one row."""
    labels_N, predicted_N, correct_N, probability_N, rank_N = (
        table[name].to_numpy() for name in ("label", "predicted", "correct", "probability", "rank")
    )
    figures = per_class(labels_N, predicted_N, len(classes))
    occurring_K = figures.occurring
    low, high = interval(int(correct_N.sum()), len(correct_N))
    return Metrics(
        split=split,
        num_samples=len(labels_N),
        index_digest=index_digest,
        weights_sha256=weights_sha256,
        top1=float(correct_N.mean()),
        top1_low=low,
        top1_high=high,
        top5=float((rank_N <= 5).mean()),
        loss=float(table["loss"].to_numpy().mean()),
        macro_precision=float(figures.precision_K[occurring_K].mean()),
        macro_recall=float(figures.recall_K[occurring_K].mean()),
        macro_f1=float(figures.f1_K[occurring_K].mean()),
        ece=reliability(probability_N, correct_N).ece,
        per_class={
            name: {"precision": float(p), "recall": float(r), "f1": float(f1), "support": float(support)}
            for name, p, r, f1, support in zip(
                classes, figures.precision_K, figures.recall_K, figures.f1_K, figures.support_K, strict=True
            )
        },
        slices={name[len(SLICE) :]: by_value(table[name], correct_N) for name in table.column_names if is_slice(name)},
    )


def is_slice(column: str) -> bool:
    return column.startswith(SLICE)


def per_class(labels_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> PerClass:
    hits_K = np.bincount(labels_N[labels_N == predicted_N], minlength=num_classes)
    support_K = np.bincount(labels_N, minlength=num_classes)
    num_predicted_K = np.bincount(predicted_N, minlength=num_classes)
    return PerClass(
        precision_K=ratio(hits_K, num_predicted_K),
        recall_K=ratio(hits_K, support_K),
        f1_K=ratio(2 * hits_K, support_K + num_predicted_K),
        support_K=support_K,
        num_predicted_K=num_predicted_K,
    )


def confusion(labels_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> Confusion:
    codes_P, count_P = np.unique(labels_N.astype(np.int64) * num_classes + predicted_N, return_counts=True)
    return Confusion(codes_P // num_classes, codes_P % num_classes, count_P)


def interval(num_correct: int, num_samples: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the fraction of correct samples, by bootstrap.

    Resampling N samples with replacement draws the number of correct ones from a binomial, so that is drawn directly.
    Where all or none are correct every resample is alike, and the exact bound of Clopper and Pearson (1934) stands in.
    """
    if num_correct == num_samples:
        return 0.025 ** (1 / num_samples), 1.0
    if num_correct == 0:
        return 0.0, 1.0 - 0.025 ** (1 / num_samples)
    draws = np.random.default_rng(seed).binomial(num_samples, num_correct / num_samples, NUM_RESAMPLES)
    low, high = np.quantile(draws / num_samples, [0.025, 0.975])
    return float(low), float(high)


def by_value(column: pa.ChunkedArray, correct_N: np.ndarray, figure: str = "top1") -> dict[str, dict[str, float]]:
    """num_samples and, as `figure`, the part that is correct, for each text of `column`, in the order of the texts,
    pooled beyond MAX_SLICE_VALUES."""
    codes = column.fill_null(MISSING).combine_chunks().dictionary_encode()
    values, code_N = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    count_V = np.bincount(code_N, minlength=len(values))
    num_correct_V = np.bincount(code_N, weights=correct_N, minlength=len(values))
    by_count = np.lexsort((np.array(values), -count_V))
    kept, pooled = by_count[:MAX_SLICE_VALUES], by_count[MAX_SLICE_VALUES:]
    rows = {values[v]: (count_V[v], num_correct_V[v]) for v in sorted(kept, key=lambda v: values[v])}
    if len(pooled):
        rows[f"({len(pooled)} rarer values)"] = (count_V[pooled].sum(), num_correct_V[pooled].sum())
    return {value: {"num_samples": float(n), figure: float(hits / n)} for value, (n, hits) in rows.items()}


def ratio(part_K: np.ndarray, whole_K: np.ndarray) -> np.ndarray:
    """0 where the whole is."""
    return np.divide(part_K, whole_K, out=np.zeros(len(whole_K)), where=whole_K > 0)

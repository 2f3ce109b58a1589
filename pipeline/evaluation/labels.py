"""Multi-label sets: one pass of a model over a split as a table, and every figure of the report from that table alone.

B samples of a batch, N samples of the split, K classes. Each class is a question of its own, answered by a probability
(the sigmoid of its logit), which says yes from the class's threshold on.
"""

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from pipeline import ranking
from pipeline.evaluation.metrics import by_value, is_slice, ratio
from pipeline.evaluation.predict import Batch, answers, as_array, check_finite
from pipeline.evaluation.samples import SLICE
from pipeline.metrics import MultiLabelMetrics


def predict_labels(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[float],
    device: torch.device | str,
) -> pa.Table:
    """A row per sample that is no padding, sorted by key; the class names lie in the schema's metadata.

    Columns: key, labels and predicted (lists of class numbers, ascending), correct (whether they are the same), loss
    (nats, mean over the classes), probabilities (of every class, in order).

    Raises ModelError when a logit is no number.
    """
    threshold_K = np.asarray(thresholds)
    parts = []
    for keys_B, logits_BK, hot_BK in answers(model, batches, mean=mean, std=std, device=device):
        logits_BK = logits_BK.double()
        losses_BK = F.binary_cross_entropy_with_logits(logits_BK, hot_BK.double(), reduction="none")
        check_finite(keys_B, losses_BK.mean(1).cpu().numpy())
        probabilities_BK = logits_BK.sigmoid().cpu().numpy()
        parts.append((keys_B, hot_BK.cpu().numpy(), losses_BK.mean(1).cpu().numpy(), probabilities_BK))
    keys_N, hot_NK, losses_N, probabilities_NK = map(np.concatenate, zip(*parts, strict=True))
    order_N = np.argsort(keys_N, kind="stable")
    hot_NK, said_NK = hot_NK[order_N].astype(bool), probabilities_NK[order_N] >= threshold_K
    columns = {
        "key": pa.array(keys_N[order_N]),
        "labels": _lists(hot_NK),
        "predicted": _lists(said_NK),
        "correct": pa.array((hot_NK == said_NK).all(axis=1)),
        "loss": pa.array(losses_N[order_N]),
        "probabilities": as_array(probabilities_NK[order_N], pa.list_(pa.float64())),
    }
    return pa.table(columns, metadata={"classes": json.dumps(list(classes)), "thresholds": json.dumps([*thresholds])})


def measure_labels(
    table: pa.Table,
    classes: Sequence[str],
    thresholds: Sequence[float],
    *,
    split: str,
    index_digest: str,
    weights_sha256: str,
) -> MultiLabelMetrics:
    """All figures of the predictions `table`, of which at least one row has a label."""
    num_classes = len(classes)
    hot_NK, said_NK = (multi_hot(table[name], num_classes) for name in ("labels", "predicted"))
    probabilities_NK = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(-1, num_classes)
    correct_N = table["correct"].to_numpy()
    support_K, said_K, right_K = hot_NK.sum(axis=0), said_NK.sum(axis=0), (hot_NK & said_NK).sum(axis=0)
    figures_K = {
        "threshold": np.asarray(thresholds),
        "precision": ratio(right_K, said_K),
        "recall": ratio(right_K, support_K),
        "f1": ratio(2 * right_K, support_K + said_K),
        "support": support_K.astype(float),
        "ap": ranking.average_precisions(probabilities_NK, hot_NK),
    }
    ap_K = figures_K["ap"]
    low, high = interval(probabilities_NK, hot_NK)
    per_class = {
        name: {figure: float(values_K[label]) for figure, values_K in figures_K.items()}
        for label, name in enumerate(classes)
    }
    return MultiLabelMetrics(
        split=split,
        num_samples=len(correct_N),
        index_digest=index_digest,
        weights_sha256=weights_sha256,
        mean_ap=float(ap_K[np.isfinite(ap_K)].mean()),
        mean_ap_low=low,
        mean_ap_high=high,
        loss=float(table["loss"].to_numpy().mean()),
        exact_match=float(correct_N.mean()),
        micro_precision=float(ratio(right_K.sum(keepdims=True), said_K.sum(keepdims=True))[0]),
        micro_recall=float(ratio(right_K.sum(keepdims=True), support_K.sum(keepdims=True))[0]),
        micro_f1=float(ratio(2 * right_K.sum(keepdims=True), (support_K + said_K).sum(keepdims=True))[0]),
        macro_f1=float(figures_K["f1"][(support_K + said_K) > 0].mean()),
        per_class={
            name: {figure: value for figure, value in figures.items() if np.isfinite(value)}
            for name, figures in per_class.items()
        },
        slices={
            name[len(SLICE) :]: by_value(table[name], correct_N, "exact_match")
            for name in table.column_names
            if is_slice(name)
        },
    )


def interval(probabilities_NK: np.ndarray, hot_NK: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean average precision, by bootstrap over the images."""
    resampled = ranking.Resampled(probabilities_NK, hot_NK)
    found = [
        resampled.mean_average_precision(count_N)
        for count_N in ranking.resamples(*hot_NK.shape)
        if count_N[hot_NK.any(axis=1)].any()
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def multi_hot(lists: pa.ChunkedArray, num_classes: int) -> np.ndarray:
    """bool [N, num_classes], of lists of class numbers."""
    lists = lists.combine_chunks()
    hot_NK = np.zeros((len(lists), num_classes), bool)
    hot_NK[np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()), lists.flatten().to_numpy()] = True
    return hot_NK


def _lists(hot_NK: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(hot_NK.sum(axis=1), dtype=np.int32)])
    return pa.ListArray.from_arrays(offsets, pa.array(np.nonzero(hot_NK)[1].astype(np.int32)))

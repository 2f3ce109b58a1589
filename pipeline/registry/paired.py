"""Two multi-label models on the same test images: how sure is the difference of their mean average precisions?

By a paired bootstrap: both models are measured on the same resampled images, so what is hard for both cancels out.
McNemar's test, which compares two classifiers image by image, does not apply: mean average precision is about the order
of all images, and none is right or wrong in it by itself.
"""

import json
from pathlib import Path

import numpy as np

from pipeline import ranking
from pipeline.registry.gate import Difference


def difference(challenger: Path, champion: Path) -> Difference | None:
    """From two tables of predictions; None where they are not of the same images, labels and classes."""
    import pyarrow.parquet as pq

    mine, other = (pq.read_table(path) for path in (challenger, champion))
    names = ("key", "path", "labels")
    classes = [(table.schema.metadata or {}).get(b"classes") for table in (mine, other)]
    if not {*names, "probabilities"} <= set(other.column_names) or classes[0] != classes[1]:
        return None
    if not mine.select(names).equals(other.select(names)):
        return None
    num_classes = len(json.loads(classes[0]))
    hot_NK = np.zeros((mine.num_rows, num_classes), bool)
    for hot_K, labels in zip(hot_NK, mine["labels"].to_pylist(), strict=True):
        hot_K[labels] = True
    resampled = [
        ranking.Resampled(table["probabilities"].combine_chunks().flatten().to_numpy().reshape(hot_NK.shape), hot_NK)
        for table in (mine, other)
    ]
    has_class_N = hot_NK.any(axis=1)
    differences = [
        resampled[0].mean_average_precision(count_N) - resampled[1].mean_average_precision(count_N)
        for count_N in ranking.resamples(*hot_NK.shape)
        if count_N[has_class_N].any()
    ]
    low, high = np.quantile(differences, [0.025, 0.975])
    return Difference(float(low), float(high))

"""The confusion matrix as a table that DVC's template draws: a row per test image."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

MAX_ROWS = 20_000
"""DVC writes every row into its page; a larger test split is thinned evenly."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # OWASP, "CSV injection"


def write_confusion(path: Path, table: pa.Table, classes: Sequence[str]) -> None:
    """Columns actual and predicted, class names. A name that a spreadsheet would run gets an apostrophe in front."""
    names = [f"'{name}" if name.startswith(FORMULA_STARTS) else name for name in classes]
    stride = -(-table.num_rows // MAX_ROWS)
    labels, predicted = (table[column].to_numpy()[::stride] for column in ("label", "predicted"))
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("actual", "predicted"))
        rows.writerows((names[a], names[p]) for a, p in zip(labels.tolist(), predicted.tolist(), strict=True))

"""The table beside each tar: where a sample's members lie in it, and the sample's label or labels.

Where images have one class each, a row ends with the number of it. In a multi-label set it ends with a bit for each
class of the set instead: any number of them can be set, or none.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts import Index, Shard
from pipeline.errors import ArtifactError

_PLACES = [
    ("key", "<u8"),
    ("image_offset", "<u8"),
    ("image_bytes", "<u4"),
    ("json_offset", "<u8"),
    ("json_bytes", "<u4"),
]
SAMPLE_DTYPE = np.dtype([*_PLACES, ("label", "<i4")])
"""A row: where a sample's members lie in the tar, in the tar's order."""


def multi_label_dtype(num_classes: int) -> np.dtype:
    """As SAMPLE_DTYPE for a multi-label set; `labels` has the bit of class k as bit k % 8 of byte k // 8."""
    return np.dtype([*_PLACES, ("labels", "u1", (-(-num_classes // 8),))])


def dtype_of(index: Index) -> np.dtype:
    """Of the rows of all the index's tables."""
    return multi_label_dtype(len(index.classes)) if index.multi_label else SAMPLE_DTYPE


def pack_labels(labels: Sequence[int], num_classes: int) -> np.ndarray:
    """A row's `labels`."""
    hot_K = np.zeros(num_classes, np.uint8)
    hot_K[list(labels)] = 1
    return np.packbits(hot_K, bitorder="little")


def is_multi_label(table: np.ndarray) -> bool:
    return "labels" in table.dtype.names


def multi_hot(table: np.ndarray, num_classes: int) -> np.ndarray:
    """uint8 [rows, num_classes]: 1 for each class of a sample, of a multi-label set."""
    return np.unpackbits(table["labels"], axis=1, count=num_classes, bitorder="little")


def labels_of(row: np.void) -> int | list[int]:
    """The sample's label, or its labels, ascending."""
    if "labels" not in row.dtype.names:
        return int(row["label"])
    return np.flatnonzero(np.unpackbits(row["labels"], bitorder="little")).tolist()


def count_classes(table: np.ndarray, num_classes: int) -> list[int]:
    """Samples of each class; in a multi-label set a sample counts for all of its classes."""
    if is_multi_label(table):
        return multi_hot(table, num_classes).sum(axis=0, dtype=np.int64).tolist()
    return np.bincount(table["label"], minlength=num_classes).tolist()


def read_sample_table(index_path: Path, shard: Shard) -> np.ndarray:
    """The shard's samples that are to be used, [num_samples]; see `read_stored_table`."""
    return without_tombstones(read_stored_table(index_path, shard), shard)


def read_stored_table(index_path: Path, shard: Shard) -> np.ndarray:
    """The sample table that lies beside the index, as `parse_sample_table` gives it."""
    path = index_path.parent / f"{shard.name}.npy"
    try:
        return parse_sample_table(path.read_bytes(), shard, str(path))
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} is missing; run `convoy shard` (or `dvc checkout`).") from exc


def parse_sample_table(data: bytes, shard: Shard, where: str) -> np.ndarray:
    """A row for each sample in the tar, tombstones too; compared with the index by its sha256."""
    if hashlib.sha256(data).hexdigest() != shard.table_sha256:
        raise ArtifactError(f"{where} is not the table that the index lists; run `convoy shard` again.")
    table = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    known = (SAMPLE_DTYPE, multi_label_dtype(len(shard.class_counts)))
    if table.dtype not in known or table.shape != (shard.num_stored,):
        raise ArtifactError(
            f"{where} holds {table.shape} of {table.dtype}, the index says {shard.num_stored} samples; "
            "run `convoy shard` again."
        )
    return table


def without_tombstones(table: np.ndarray, shard: Shard) -> np.ndarray:
    return np.delete(table, shard.tombstones) if shard.tombstones else table

"""What the records of a manifest are labelled with: one class each or, of a multi-label source, any number of them.

Either way a record has one code, equal for equal labels, so that what asks whether two records say the same compares
one number.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sharding.manifest import Manifest


@dataclass(frozen=True)
class Labels:
    classes: list[str]
    """In order: the position is the label."""
    codes: np.ndarray
    """[num_records], of the smallest unsigned type that has them all: the label, or of a multi-label source the place
    of the labels in `sets`."""
    sets: list[tuple[int, ...]] | None = None
    """Of a multi-label source: the labels that records have together, ascending."""

    def of(self, rows: np.ndarray | slice) -> list[int] | list[tuple[int, ...]]:
        """The label, or the labels, of each of these records."""
        codes = self.codes[rows].tolist()
        return codes if self.sets is None else [self.sets[code] for code in codes]

    def name(self, row: int) -> str:
        """For people."""
        code = int(self.codes[row])
        if self.sets is None:
            return self.classes[code]
        return ", ".join(self.classes[label] for label in self.sets[code]) or "(no class)"

    def count(self, is_counted: np.ndarray) -> np.ndarray:
        """int64 [num_classes]: of the records chosen, those of each class."""
        num_codes = len(self.classes) if self.sets is None else len(self.sets)
        per_code = np.bincount(self.codes[is_counted], minlength=num_codes)
        if self.sets is None:
            return per_code
        labels = np.array([label for labels in self.sets for label in labels], np.int64)
        counts = np.zeros(len(self.classes), np.int64)
        np.add.at(counts, labels, np.repeat(per_code, [len(each) for each in self.sets]))
        return counts

    def has_any(self, labels: Collection[int]) -> np.ndarray:
        """bool [num_records]: which have at least one of these labels."""
        if self.sets is None:
            return np.isin(self.codes, labels)
        wanted = set(labels)
        return np.array([not wanted.isdisjoint(each) for each in self.sets], bool)[self.codes]


def read_labels(manifest: Manifest) -> Labels:
    """Of all records; classes are in the order of their names."""
    column = manifest.label_column
    texts = sorted({text for batch in manifest.batches(column) for text in pc.unique(batch[column]).to_pylist()})
    positions, start = pa.array(texts, pa.string()), 0
    codes = np.empty(manifest.num_rows, np.min_scalar_type(max(0, len(texts) - 1)))
    for batch in manifest.batches(column):
        codes[start : start + len(batch)] = pc.index_in(batch[column], positions).to_numpy()
        start += len(batch)
    if not manifest.is_multi_label:
        return Labels(texts, codes)
    names = [json.loads(text) for text in texts]
    classes = sorted({name for each in names for name in each})
    label_of = {name: label for label, name in enumerate(classes)}
    return Labels(classes, codes, [tuple(label_of[name] for name in each) for each in names])

"""What was found in the images: counts that must add up, equal images, contradictory labels, sizes -> audit.json."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.artifacts import SPLITS, Artifact, Reject
from pipeline.errors import SourceError

MAX_EXAMPLES = 20
"""Groups of paths shown for each finding; the counts are whole."""


class Finding(Artifact):
    """Groups of records with the same bytes."""

    num_groups: int
    num_images: int
    examples: list[list[str]]
    """Paths, a list for each group."""


class Audit(Artifact):
    """data/audit.json"""

    num_records: int
    num_samples: int
    num_rejects: int
    rejects_by_reason: dict[str, int]
    samples_by_class: dict[str, int]
    samples_by_split: dict[str, int]
    duplicates: Finding
    contradictory_labels: Finding
    """Duplicates that have more than one label."""
    duplicates_across_splits: Finding
    """Only where the source fixes splits or groups: the hash keeps duplicates together."""
    height_px: dict[str, float]
    width_px: dict[str, float]
    """min, median and max of the samples' sources."""


class Samples(NamedTuple):
    """The records that became samples, one entry each."""

    paths: pa.ChunkedArray
    labels: np.ndarray
    splits: np.ndarray
    digests: np.ndarray
    """uint8 [num_samples, 32]"""
    sizes: np.ndarray
    """int32 [num_samples, 2]: height and width."""


def audit_samples(samples: Samples, classes: Sequence[str], rejects: Sequence[Reject], num_records: int) -> Audit:
    num_samples = len(samples.labels)
    assert num_samples + len(rejects) == num_records, "a record is neither sample nor reject, or both"
    groups = _groups_of_equals(samples.digests)
    contradictory = [rows for rows in groups if len(np.unique(samples.labels[rows])) > 1]
    straddling = [rows for rows in groups if len(np.unique(samples.splits[rows])) > 1]
    by_class = np.bincount(samples.labels, minlength=len(classes)).tolist()
    by_split = np.bincount(samples.splits, minlength=len(SPLITS)).tolist()
    return Audit(
        num_records=num_records,
        num_samples=num_samples,
        num_rejects=len(rejects),
        rejects_by_reason=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        samples_by_class=dict(zip(classes, by_class, strict=True)),
        samples_by_split=dict(zip(SPLITS, by_split, strict=True)),
        duplicates=_finding(groups, samples.paths),
        contradictory_labels=_finding(contradictory, samples.paths),
        duplicates_across_splits=_finding(straddling, samples.paths),
        height_px=_range(samples.sizes[:, 0]),
        width_px=_range(samples.sizes[:, 1]),
    )


def has_too_many_rejects(num_rejects: int, num_records: int, max_rejected_fraction: float) -> bool:
    return num_rejects > max_rejected_fraction * num_records


def too_many_rejects(
    rejects: Sequence[Reject], num_records: int, max_rejected_fraction: float, rejects_path: str
) -> SourceError:
    """The error for the user, with the first of the rejects."""
    first = "\n".join(f"  {reject.path}: {reject.detail}" for reject in rejects[:3])
    return SourceError(
        f"{len(rejects)} of {num_records} images cannot be used, more than audit.max_rejected_fraction="
        f"{max_rejected_fraction} allows. The first of them:\n{first}\n{rejects_path} lists them all; mend or delete "
        "them, or raise the fraction."
    )


def _groups_of_equals(digests: np.ndarray) -> list[np.ndarray]:
    """Rows of equal digests, ascending, for every digest that occurs more than once."""
    words = np.ascontiguousarray(digests).view(">u8")
    order = np.lexsort(words.T[::-1])
    is_new = np.ones(len(order), bool)
    is_new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(is_new)
    lengths = np.diff(np.append(starts, len(order)))
    groups = [
        np.sort(order[start : start + length]) for start, length in zip(starts, lengths, strict=True) if length > 1
    ]
    return sorted(groups, key=lambda rows: rows[0])


def _finding(groups: list[np.ndarray], paths: pa.ChunkedArray) -> Finding:
    return Finding(
        num_groups=len(groups),
        num_images=sum(map(len, groups)),
        examples=[paths.take(pa.array(rows[:MAX_EXAMPLES])).to_pylist() for rows in groups[:MAX_EXAMPLES]],
    )


def _range(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}

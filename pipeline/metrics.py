"""data/report/metrics.json: figures on the test split, of sets with one class an image and of multi-label ones."""

import json
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.artifacts import Artifact


class Metrics(Artifact):
    """data/report/metrics.json: figures on the test split."""

    split: str
    num_samples: int
    index_digest: str
    weights_sha256: str
    top1: float
    top1_low: float
    top1_high: float
    """95 % bootstrap interval."""
    top5: float
    loss: float
    """Mean cross-entropy, nats."""
    macro_precision: float
    macro_recall: float
    macro_f1: float
    ece: float
    """Expected calibration error over 15 equal-width bins of confidence."""
    per_class: dict[str, dict[str, float]]
    """precision, recall, f1, support by class name."""
    slices: dict[str, dict[str, dict[str, float]]]
    """num_samples and top1, by metadata column and value."""

    score_name: ClassVar = "top1"

    @property
    def score(self) -> float:
        """What models are compared by; of the same name as the validation figure that runs are."""
        return self.top1


class MultiLabelMetrics(Artifact):
    """data/report/metrics.json of a multi-label set: figures on the test split. A class is said of an image from the
    class's threshold on, which was chosen on the validation split."""

    multi_label: Literal[True] = True
    split: str
    num_samples: int
    index_digest: str
    weights_sha256: str
    mean_ap: float
    """Macro mean average precision: over the classes that a test image has."""
    mean_ap_low: float
    mean_ap_high: float
    """95 % bootstrap interval."""
    loss: float
    """Mean binary cross-entropy over samples and classes, nats."""
    exact_match: float
    """Part of the samples of which exactly their classes are said."""
    micro_precision: float
    micro_recall: float
    micro_f1: float
    """Of all answers together."""
    macro_f1: float
    per_class: dict[str, dict[str, float]]
    """threshold, precision, recall, f1, support by class name, and ap where the class has support."""
    slices: dict[str, dict[str, dict[str, float]]]
    """num_samples and exact_match, by metadata column and value."""

    score_name: ClassVar = "mean_ap"

    @property
    def score(self) -> float:
        return self.mean_ap


def read_metrics(path: Path) -> Metrics | MultiLabelMetrics:
    """data/report/metrics.json of either kind. Raises ArtifactError."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        content = None  # said below
    kind = MultiLabelMetrics if isinstance(content, dict) and content.get("multi_label") else Metrics
    return kind.read(path, made_by="evaluate")

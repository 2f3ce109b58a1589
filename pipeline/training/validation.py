"""What validation measures: each rank looks at its own batches, and the figures are those of all ranks' samples.

B samples of a batch, K classes, N samples of a rank's batches. Padding counts nothing.
"""

from typing import Protocol

import numpy as np
import torch

from pipeline import ranking
from pipeline.modeling import objective


class Ranks(Protocol):
    """What Lightning's strategies do for all ranks together."""

    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor: ...

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """[ranks, ...], or the tensor as it is where there is one rank."""


class Validation(Protocol):
    """One pass over the split after the other."""

    predicted_K: list[int]
    """Of the last pass, how many samples each class was the answer for; empty where there is no one answer."""

    def begin(self, device: torch.device) -> None: ...

    def add(self, logits_BK: torch.Tensor, labels_B: torch.Tensor, mask_B: torch.Tensor) -> None: ...

    def end(self, ranks: Ranks) -> dict[str, float]:
        """The figures by name, the same on every rank."""


class SingleLabelValidation:
    """`loss` (cross-entropy, nats) and `top1`."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self.predicted_K: list[int] = []

    def begin(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)
        self._predictions_K = torch.zeros(self._num_classes, dtype=torch.int64, device=device)

    def add(self, logits_BK: torch.Tensor, labels_B: torch.Tensor, mask_B: torch.Tensor) -> None:
        self._sums += objective.evaluation_sums(logits_BK, labels_B, mask_B)
        self._predictions_K += torch.bincount(logits_BK.argmax(1)[mask_B], minlength=self._num_classes)

    def end(self, ranks: Ranks) -> dict[str, float]:
        self.predicted_K = ranks.reduce(self._predictions_K, reduce_op="sum").tolist()
        loss, num_correct, num_samples = ranks.reduce(self._sums, reduce_op="sum").tolist()
        return {"loss": loss / num_samples, "top1": num_correct / num_samples}


class MultiLabelValidation:
    """`loss` (mean binary cross-entropy, nats) and `mean_ap` (macro mAP), which is exact and so has to see all scores:
    each rank holds those of the whole split at the end, 5 bytes for each sample and class.
    """

    def __init__(self):
        self.predicted_K: list[int] = []

    def begin(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._scores: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []

    def add(self, logits_BK: torch.Tensor, labels_B: torch.Tensor, mask_B: torch.Tensor) -> None:
        self._sums += objective.multi_label_sums(logits_BK, labels_B, mask_B)
        # Padding has no label anywhere else, so that it can be told when the ranks' rows have come together.
        self._labels.append(torch.where(mask_B[:, None], labels_B, PADDING))
        self._scores.append(logits_BK.float())

    def end(self, ranks: Ranks) -> dict[str, float]:
        loss, num_samples = ranks.reduce(self._sums, reduce_op="sum").tolist()
        scores_NK, labels_NK = (_of_all(torch.cat(parts), ranks) for parts in (self._scores, self._labels))
        is_sample_N = labels_NK[:, 0] != PADDING
        self._scores, self._labels = [], []
        mean_ap = ranking.mean_average_precision(scores_NK[is_sample_N], labels_NK[is_sample_N])
        return {"loss": loss / num_samples, "mean_ap": mean_ap}


PADDING = 255


def _of_all(rows_NK: torch.Tensor, ranks: Ranks) -> np.ndarray:
    return ranks.all_gather(rows_NK).flatten(0, -2).cpu().numpy()

"""How far the model's confidence can be believed: reliability by bins of confidence."""

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


@dataclass(frozen=True)
class Reliability:
    """Sums over equal-width bins of confidence; bin b of M holds confidences in (b/M, (b+1)/M], the first 0 too."""

    count_M: np.ndarray
    correct_M: np.ndarray
    confidence_M: np.ndarray
    """Summed, not averaged."""

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence over the bins, weighted by samples."""
        return float(np.abs(self.correct_M - self.confidence_M).sum() / self.count_M.sum())

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy; negative for a model that is too modest."""
        return float((self.confidence_M.sum() - self.correct_M.sum()) / self.count_M.sum())


def reliability(confidence_N: np.ndarray, correct_N: np.ndarray, num_bins: int = NUM_BINS) -> Reliability:
    """Confidence (0..1) of the predicted class against how often it was right."""
    bin_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return Reliability(
        count_M=np.bincount(bin_N, minlength=num_bins),
        correct_M=np.bincount(bin_N, weights=correct_N, minlength=num_bins),
        confidence_M=np.bincount(bin_N, weights=confidence_N, minlength=num_bins),
    )

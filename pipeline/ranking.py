"""How well scores rank the images that have a class before those that have not, class by class: average precision, and
the score from which on an image is best said to have the class.

N images, K classes; scores_NK are any numbers that grow with the model's belief, hot_NK is 1 where an image has a
class.
"""

from collections.abc import Iterator

import numpy as np

MIN_RESAMPLES, MAX_RESAMPLES = 100, 1000
MAX_RANKED = 2 * 10**8
"""Answers, of an image to a class, that all resamples together look at: some seconds."""


def average_precisions(scores_NK: np.ndarray, hot_NK: np.ndarray) -> np.ndarray:
    """Per class, 0 to 1: the precision at each image that has the class, averaged; NaN where no image has it.

    Equal scores count together, so the order of the images plays no part. Source: scikit-learn's definition, the sum
    over scores of (gain in recall) x (precision), without interpolation.
    """
    return np.array(
        [_average_precision(scores_N, hot_N) for scores_N, hot_N in zip(scores_NK.T, hot_NK.T, strict=True)]
    )


def mean_average_precision(scores_NK: np.ndarray, hot_NK: np.ndarray) -> float:
    """Every class that an image has counts the same (macro mAP); NaN where no image has one."""
    precisions_K = average_precisions(scores_NK, hot_NK)
    is_defined_K = np.isfinite(precisions_K)
    return float(precisions_K[is_defined_K].mean()) if is_defined_K.any() else float("nan")


def best_thresholds(probabilities_NK: np.ndarray, hot_NK: np.ndarray, default: float = 0.5) -> np.ndarray:
    """Per class, the probability from which on an image is said to have it, for the highest F1 on these images.

    It lies midway to the next lower probability. Of equally good ones the highest counts; `default` where no image has
    the class.
    """
    columns = zip(probabilities_NK.T, hot_NK.T, strict=True)
    return np.array([_best_threshold(scores_N, hot_N, default) for scores_N, hot_N in columns])


class Resampled:
    """The mean average precision of resamples of the same images, without sorting them anew."""

    def __init__(self, scores_NK: np.ndarray, hot_NK: np.ndarray):
        self._classes = []
        for scores_N, hot_N in zip(scores_NK.T, hot_NK.T, strict=True):
            if hot_N.any():
                order_N = np.argsort(-scores_N, kind="stable")
                self._classes.append((order_N, hot_N[order_N], _ends(scores_N[order_N])))

    def mean_average_precision(self, count_N: np.ndarray) -> float:
        """Of `count_N` copies of each image, at least one of them with a class; a class that none has is left out."""
        precisions = []
        for order_N, hot_N, last_S in self._classes:
            counts_N = count_N[order_N]
            num_said_S, num_right_S = np.cumsum(counts_N)[last_S], np.cumsum(counts_N * hot_N)[last_S]
            if num_right_S[-1]:
                gains_S = np.diff(num_right_S, prepend=0)
                precisions.append((gains_S * num_right_S / np.maximum(num_said_S, 1)).sum() / num_right_S[-1])
        return float(np.mean(precisions))


def resamples(num_images: int, num_classes: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each image comes in each of the bootstrap's resamples; fewer of them where there is much to reckon."""
    random = np.random.default_rng(seed)
    chances_N = np.full(num_images, 1.0 / num_images)
    for _ in range(int(np.clip(MAX_RANKED / (num_images * num_classes), MIN_RESAMPLES, MAX_RESAMPLES))):
        yield random.multinomial(num_images, chances_N)


def _steps(scores_N: np.ndarray, hot_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, falling; how many images score at least so much; and how many of those have the class."""
    order_N = np.argsort(-scores_N, kind="stable")
    falling_N = scores_N[order_N]
    last_S = _ends(falling_N)
    return falling_N[last_S], last_S + 1, np.cumsum(hot_N[order_N], dtype=np.int64)[last_S]


def _ends(falling_N: np.ndarray) -> np.ndarray:
    """The last place of each of the distinct scores."""
    return np.flatnonzero(np.append(falling_N[1:] != falling_N[:-1], True))


def _average_precision(scores_N: np.ndarray, hot_N: np.ndarray) -> float:
    num_positive = int(hot_N.sum(dtype=np.int64))
    if not num_positive:
        return float("nan")
    _, num_said_S, num_right_S = _steps(scores_N, hot_N)
    return float((np.diff(num_right_S, prepend=0) * (num_right_S / num_said_S)).sum() / num_positive)


def _best_threshold(scores_N: np.ndarray, hot_N: np.ndarray, default: float) -> float:
    num_positive = int(hot_N.sum(dtype=np.int64))
    if not num_positive:
        return default
    scores_S, num_said_S, num_right_S = _steps(scores_N.astype(np.float64), hot_N)
    best = int(np.argmax(2 * num_right_S / (num_said_S + num_positive)))
    lower = scores_S[best + 1] if best + 1 < len(scores_S) else 0.0
    midway = 0.5 * (scores_S[best] + lower)
    return float(midway if midway > lower else scores_S[best])

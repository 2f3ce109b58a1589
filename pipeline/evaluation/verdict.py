"""The report's words: one sentence that says how good the model is, and what a careful reader should know besides.

Pure functions of figures; the words are chosen by rules that stand here, so that the same figures give the same text.
"""

import math
from collections.abc import Sequence

from pipeline.evaluation.calibrate import Reliability
from pipeline.evaluation.metrics import Confusion, interval
from pipeline.metrics import Metrics

FEW_IMAGES = 200
FEW_IMAGES_OF_A_CLASS = 10
NOTABLE_OVERCONFIDENCE = 0.05
NOTABLE_LOSS_RISE = 1.1
NOTABLE_LOSS_RISE_NATS = 0.02
"""A smaller rise is noise, however small the loss is."""


def percent(value: float) -> str:
    """One decimal, more where that would round a fraction to 0 or to all; 100 and 0 only for exactly that."""
    if value in (0.0, 1.0):
        return f"{100 * value:.0f}\u202f%"
    digits = 1
    while f"{100 * value:.{digits}f}" in (f"{100:.{digits}f}", f"{0:.{digits}f}") and digits < 9:
        digits += 1
    return f"{100 * value:.{digits}f}\u202f%"


def sentence(metrics: Metrics, backbone: str) -> str:
    low, high = percent(metrics.top1_low), percent(metrics.top1_high)
    return (
        f"{backbone} names {percent(metrics.top1)} of {metrics.num_samples:,} {metrics.split} images correctly; "
        f"with 95\u202f% confidence the true rate lies between {low} and {high}."
    )


def strengths(metrics: Metrics, pairs: Confusion, classes: Sequence[str]) -> str:
    """What it is best and worst at, and its commonest mistake."""
    worst, best, parts = *weakest_and_strongest(metrics), []
    if best is not None and metrics.per_class[best]["f1"] > metrics.per_class[worst]["f1"]:
        parts.append(
            f"It is best at “{best}” (F1 {metrics.per_class[best]['f1']:.3f}) and weakest at “{worst}” "
            f"(F1 {metrics.per_class[worst]['f1']:.3f})."
        )
    mistakes = commonest_mistakes(pairs)
    if not mistakes:
        return "It makes no mistake on them."
    actual, predicted, count = mistakes[0]
    support = int(metrics.per_class[classes[actual]]["support"])
    parts.append(
        f"Its commonest mistake is to take “{classes[actual]}” for “{classes[predicted]}” ({count:,} of {support:,})."
    )
    return " ".join(parts)


def weakest_and_strongest(metrics: Metrics) -> tuple[str | None, str | None]:
    """By F1, among the classes that the split holds; None where there is only one."""
    held = [name for name, figures in metrics.per_class.items() if figures["support"]]
    if len(held) < 2:
        return None, None
    return min(held, key=lambda n: metrics.per_class[n]["f1"]), max(held, key=lambda n: metrics.per_class[n]["f1"])


def commonest_mistakes(pairs: Confusion) -> list[tuple[int, int, int]]:
    """(actual, predicted, count) of every wrong pair, the commonest first."""
    wrong = [
        (int(a), int(p), int(n))
        for a, p, n in zip(pairs.actual_P, pairs.predicted_P, pairs.count_P, strict=True)
        if a != p
    ]
    return sorted(wrong, key=lambda pair: -pair[2])


def notes(metrics: Metrics, bins: Reliability, pairs: Confusion, classes: Sequence[str], history: dict) -> list[str]:
    """What limits the verdict, most serious first; empty when nothing does."""
    return [
        note
        for note in (
            _collapsed(pairs, classes),
            _no_better_than_guessing(metrics),
            _few_images(metrics),
            _few_of_a_class(metrics),
            _absent_classes(metrics),
            _weak_slice(metrics),
            _confidence(bins),
            overfitting(history),
        )
        if note
    ]


def _collapsed(pairs: Confusion, classes: Sequence[str]) -> str | None:
    predicted = set(pairs.predicted_P.tolist())
    if len(predicted) > 1 or len(set(pairs.actual_P.tolist())) == 1:
        return None
    return (
        f"The model answers “{classes[predicted.pop()]}” to every image: it has collapsed. Usual causes are a learning "
        "rate that is too high, too few steps, or labels that do not belong to the images."
    )


def _no_better_than_guessing(metrics: Metrics) -> str | None:
    share = max(figures["support"] for figures in metrics.per_class.values()) / metrics.num_samples
    if metrics.top1_low > share or share == 1.0:
        return None
    return (
        f"Always answering the most frequent class would be right for {percent(share)}; "
        "the model is not clearly better."
    )


def _few_images(metrics: Metrics) -> str | None:
    if metrics.num_samples >= FEW_IMAGES:
        return None
    width = 100 * (metrics.top1_high - metrics.top1_low)
    return f"There are only {metrics.num_samples} test images: the interval of top-1 is {width:.0f} points wide."


def _few_of_a_class(metrics: Metrics) -> str | None:
    few = [n for n, figures in metrics.per_class.items() if 0 < figures["support"] < FEW_IMAGES_OF_A_CLASS]
    if not few:
        return None
    return (
        f"{len(few):,} of {len(metrics.per_class):,} classes have fewer than {FEW_IMAGES_OF_A_CLASS} test images; "
        "one image more or less moves their figures visibly."
    )


def _absent_classes(metrics: Metrics) -> str | None:
    absent = [n for n, figures in metrics.per_class.items() if not figures["support"]]
    if not absent:
        return None
    return (
        f"{len(absent):,} of {len(metrics.per_class):,} classes have no test image: nothing is known of them. "
        "Macro averages count such a class only where it was predicted."
    )


def _weak_slice(metrics: Metrics) -> str | None:
    """The slice whose whole interval lies below that of all images, if there is one; the lowest of them."""
    weak = []
    for column, values in metrics.slices.items():
        for value, figures in values.items():
            num_samples = round(figures["num_samples"])
            _, high = interval(round(figures["top1"] * num_samples), num_samples)
            if high < metrics.top1_low:
                weak.append((figures["top1"], column, value, num_samples))
    if not weak:
        return None
    top1, column, value, num_samples = min(weak)
    return (
        f"Where {column} is “{value}” it is clearly weaker: "
        f"{percent(top1)} of {num_samples:,} images are named correctly."
    )


def _confidence(bins: Reliability) -> str | None:
    over, num_samples = bins.overconfidence, bins.count_M.sum()
    claimed, right = percent(bins.confidence_M.sum() / num_samples), percent(bins.correct_M.sum() / num_samples)
    if abs(over) < NOTABLE_OVERCONFIDENCE:
        return None
    return (
        f"Its confidence is too {'high' if over > 0 else 'low'}: "
        f"on average it claims {claimed} and is right for {right} of the images."
    )


def overfitting(history: dict) -> str | None:
    """A note where validation loss rose again."""
    losses = [(loss, epoch) for loss, epoch in zip(history["validation_loss"], history["epoch"], strict=True)]
    losses = [(loss, epoch) for loss, epoch in losses if math.isfinite(loss)]
    if not losses:
        return None
    best, epoch = min(losses)
    if losses[-1][0] - best < max((NOTABLE_LOSS_RISE - 1.0) * best, NOTABLE_LOSS_RISE_NATS):
        return None
    return (
        f"Validation loss was lowest in epoch {epoch:.0f} ({best:.3f}) and rose to {losses[-1][0]:.3f}: the model "
        "overfits; fewer epochs, more augmentation or more data would help."
    )

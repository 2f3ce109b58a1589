"""Who is champion: a pure decision from figures, with its reasons in words.

`compare` is the one place that says whether a challenger is worse than the champion; a stricter test replaces it.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Measured:
    """A registered model's figures on the test split of one index."""

    version: str
    score: float
    num_samples: int
    index_digest: str


class Threshold(NamedTuple):
    """What a champion has to reach."""

    figure: str
    """What scores are: `top-1`, or `mAP` of a multi-label model."""
    param: str
    """That sets the minimum."""
    minimum: float


class Difference(NamedTuple):
    """The challenger's score less the champion's on the same images: a 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """`promoted`: the challenger takes, or keeps, the alias champion."""

    promoted: bool
    reasons: list[str]


def decide(
    challenger: Measured, champion: Measured | None, threshold: Threshold, difference: Difference | None = None
) -> Verdict:
    """The verdict on a challenger; `champion` is the present one, None where there is none or it was not measured."""
    is_enough = challenger.score >= threshold.minimum
    enough = (
        f"Test {threshold.figure} {challenger.score:.4f} over {challenger.num_samples} images is "
        f"{'at least' if is_enough else 'under'} {threshold.param}={threshold.minimum}."
    )
    if champion is None:
        return Verdict(is_enough, [enough, "There is no measured champion to compare with."])
    if champion.version == challenger.version:
        return Verdict(is_enough, [enough, f"Version {champion.version} is the champion already."])
    is_not_worse, comparison = compare(challenger, champion, difference)
    return Verdict(is_enough and is_not_worse, [enough, comparison])


def compare(challenger: Measured, champion: Measured, difference: Difference | None = None) -> tuple[bool, str]:
    """Whether the challenger may follow the champion, and the reason.

    Equal figures let the newer one in. Where the difference has an interval, the challenger is worse when all of it is
    under 0.
    """
    if champion.index_digest != challenger.index_digest:
        return True, (
            f"The champion, version {champion.version}, was measured on other test data "
            f"(index {champion.index_digest[:12]}, now {challenger.index_digest[:12]}): the two are not comparable, "
            "the threshold alone decides."
        )
    known = f"On the same test data the champion, version {champion.version}, has {champion.score:.4f}"
    if difference is None:
        is_not_worse = challenger.score >= champion.score
        return is_not_worse, f"{known}: the challenger is {'not worse' if is_not_worse else 'worse'}."
    is_not_worse = difference.high >= 0.0
    return is_not_worse, (
        f"{known}. The challenger's difference, {challenger.score - champion.score:+.4f}, has the 95 % interval "
        f"{difference.low:+.4f} to {difference.high:+.4f} by a paired bootstrap over the images: it is "
        f"{'not clearly worse' if is_not_worse else 'worse'}."
    )

"""Who is champion: a pure decision from figures, with its reasons in words.

`compare` is the one place that says whether a challenger is worse than the champion; a stricter test replaces it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A registered model's figures on the test split of one index."""

    version: str
    top1: float
    num_samples: int
    index_digest: str


@dataclass(frozen=True)
class Verdict:
    """`promoted`: the challenger takes, or keeps, the alias champion."""

    promoted: bool
    reasons: list[str]


def decide(challenger: Measured, champion: Measured | None, min_top1: float) -> Verdict:
    """The verdict on a challenger; `champion` is the present one, None where there is none or it was not measured."""
    is_enough = challenger.top1 >= min_top1
    threshold = (
        f"Test top-1 {challenger.top1:.4f} over {challenger.num_samples} images is "
        f"{'at least' if is_enough else 'under'} registry.min_top1={min_top1}."
    )
    if champion is None:
        return Verdict(is_enough, [threshold, "There is no measured champion to compare with."])
    if champion.version == challenger.version:
        return Verdict(is_enough, [threshold, f"Version {champion.version} is the champion already."])
    is_not_worse, comparison = compare(challenger, champion)
    return Verdict(is_enough and is_not_worse, [threshold, comparison])


def compare(challenger: Measured, champion: Measured) -> tuple[bool, str]:
    """Whether the challenger may follow the champion, and the reason. Equal figures let the newer one in."""
    if champion.index_digest != challenger.index_digest:
        return True, (
            f"The champion, version {champion.version}, was measured on other test data "
            f"(index {champion.index_digest[:12]}, now {challenger.index_digest[:12]}): the two are not comparable, "
            "the threshold alone decides."
        )
    is_not_worse = challenger.top1 >= champion.top1
    return is_not_worse, (
        f"On the same test data the champion, version {champion.version}, has {champion.top1:.4f}: "
        f"the challenger is {'not worse' if is_not_worse else 'worse'}."
    )

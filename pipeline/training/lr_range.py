"""The learning-rate range test: the rate climbs step by step, and the loss tells which rates teach and which destroy.

Source: Smith 2017, "Cyclical learning rates for training neural networks"; smoothing and stop as Gugger 2018 has them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SMOOTHING = 0.95
DIVERGED = 4.0
"""Times the best smoothed loss."""

SPAN = 3.0
"""From one rate to another, half an order of magnitude: over less than that a loss falls by chance."""


@dataclass(frozen=True)
class Tried:
    """One step of the test."""

    lr: float
    loss: float
    smoothed: float
    """Exponential mean of the losses so far, without the bias of its start."""


@dataclass(frozen=True)
class Finding:
    """What the test says of the learning rate."""

    suggested: float
    """A tenth of the lowest's, with room for what a warm start hides, and no more than `steepest`: what is learnt in a
    few steps goes on falling at rates that destroy what takes longer."""
    lowest: float
    """Where the smoothed loss is lowest; above it training comes apart, unless it is the highest that was tried."""
    steepest: float
    """Where the smoothed loss falls fastest over the logarithm of the rate."""


def climb(step: Callable[[float], float], *, lowest: float, highest: float, num_steps: int) -> Iterator[Tried]:
    """Calls `step` with rates from `lowest` to `highest`, each the same times the one before, and tells its losses.

    Ends early once the loss is not finite (that one is not told) or DIVERGED times its best.
    """
    mean = weight = 0.0
    best = math.inf
    for number in range(num_steps):
        lr = lowest * (highest / lowest) ** (number / max(1, num_steps - 1))
        loss = step(lr)
        if not math.isfinite(loss):
            return
        mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss
        weight = SMOOTHING * weight + (1.0 - SMOOTHING)
        smoothed = mean / weight
        yield Tried(lr, loss, smoothed)
        best = min(best, smoothed)
        if smoothed > DIVERGED * best:
            return


def judge(tried: Sequence[Tried]) -> Finding | None:
    """None where the loss never fell: the range says nothing then."""
    if not tried:
        return None
    losses = [each.smoothed for each in tried]
    low = losses.index(min(losses))
    if not low:
        return None
    steepest = _steepest(tried[: low + 1])
    return Finding(suggested=min(tried[low].lr / 10.0, steepest), lowest=tried[low].lr, steepest=steepest)


def _steepest(falling: Sequence[Tried]) -> float:
    """The middle of the SPAN of rates over which the loss falls most; of shorter ranges their whole."""
    spans = []
    for start in falling:
        end = next((each for each in falling if each.lr >= start.lr * SPAN), falling[-1])
        if end.lr > start.lr and (not spans or end.lr >= start.lr * SPAN):
            spans.append((end.smoothed - start.smoothed, math.sqrt(start.lr * end.lr)))
    return min(spans)[1]

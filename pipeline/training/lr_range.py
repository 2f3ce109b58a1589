"""The learning-rate range test: the rate climbs step by step, and the loss tells which rates teach and which destroy.

Source: Smith 2017, "Cyclical learning rates for training neural networks"; smoothing and stop as Gugger 2018 has them.
"""

import math
import statistics
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
    """Where the loss falls fastest over the logarithm of the rate."""


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
    steepest = _steepest(tried)
    return Finding(suggested=min(tried[low].lr / 10.0, steepest), lowest=tried[low].lr, steepest=steepest)


def _steepest(tried: Sequence[Tried]) -> float:
    """Where the losses of the SPAN above lie lowest below those of the SPAN underneath. Not by the smoothed loss, which
    tells of steps before."""
    span = max(SPAN, 1.01 * (tried[-1].lr / tried[0].lr) ** (1.0 / (len(tried) - 1)))

    def fall(middle: Tried) -> float:
        under = [each.loss for each in tried if middle.lr / span <= each.lr < middle.lr]
        above = [each.loss for each in tried if middle.lr < each.lr <= middle.lr * span]
        return statistics.fmean(under) - statistics.fmean(above) if under and above else -math.inf

    return max(tried, key=fall).lr

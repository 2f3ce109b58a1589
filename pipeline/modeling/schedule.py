"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math

STEP_FALLS = (0.5, 0.75)
"""Where `step` divides the rate by ten, as parts of the steps after warm-up. Source: He et al. 2016, CIFAR-10."""

ONE_CYCLE_START = 1 / 25
"""Source: Smith and Topin 2018, as torch's OneCycleLR has it."""


def lr_factor(step: int, num_steps: int, *, name: str, warmup_fraction: float, final_lr_fraction: float) -> float:
    """Factor on the base rate: a warm-up to 1, then down by the named shape to final_lr_fraction in the last step.

    `step` and `constant` know no final fraction. Warm-up is linear, and a half cosine for `one_cycle`.
    Source: Goyal et al. 2017 (warm-up), Loshchilov and Hutter 2017 (cosine, without restarts).
    """
    if name == "one_cycle":
        return _one_cycle(step, num_steps, warmup_fraction, final_lr_fraction)
    num_warmup = round(warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - 1 - num_warmup))
    if name == "constant":
        return 1.0
    if name == "step":
        return 0.1 ** sum(progress >= fall for fall in STEP_FALLS)
    if name == "linear":
        return 1.0 + (final_lr_fraction - 1.0) * progress
    return _between(1.0, final_lr_fraction, progress)


def _one_cycle(step: int, num_steps: int, warmup_fraction: float, final_lr_fraction: float) -> float:
    peak, last = warmup_fraction * num_steps - 1, num_steps - 1
    if step <= peak:
        return _between(ONE_CYCLE_START, 1.0, step / peak if peak > 0 else 1.0)
    return _between(1.0, final_lr_fraction, (step - peak) / (last - peak) if last > peak else 1.0)


def _between(start: float, end: float, progress: float) -> float:
    """Half a cosine from start (progress 0) to end (progress 1)."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))

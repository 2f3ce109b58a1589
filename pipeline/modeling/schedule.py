"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math


def lr_factor(step: int, num_steps: int, *, warmup_fraction: float, final_lr_fraction: float) -> float:
    """Factor on the base rate: linear warm-up, then a half cosine that ends at final_lr_fraction in the last step.

    Source: Loshchilov and Hutter 2017 (without restarts); warm-up as in Goyal et al. 2017.
    """
    num_warmup = round(warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    return final_lr_fraction + (1.0 - final_lr_fraction) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

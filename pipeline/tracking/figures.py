"""A run's newest figures in words: a plain line, and a live one that fits its terminal."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts import SCORES
from pipeline.wording import time_text

TOLD_WAIT_FRACTION = 0.01
"""Of the steps' time: to stand still for less is nothing that anybody would turn."""


@dataclass(frozen=True)
class Figures:
    """At one moment of a run."""

    epoch: int | None
    num_epochs: int
    step: int
    num_steps: int
    metrics: Mapping[str, float]
    """The newest of each name."""
    patience_epochs: int | None
    """With patience the time left is the most it can be."""
    seconds_left: float | None
    """None where that is not known; 0 after the last step."""


def plain_text(figures: Figures, is_validated: bool) -> str:
    """With the validation's figures where they are of this very step."""
    metrics = figures.metrics
    parts = [
        f"epoch {figures.epoch}/{figures.num_epochs} step {figures.step}/{figures.num_steps}",
        f"loss {metrics['train/loss']:.4f}",
        f"{metrics['train/images_per_second']:,.0f} img/s",
    ]
    if is_validated:
        score = _score_name(metrics)
        parts.append(f"validation {SCORES[score]} {metrics[f'val/{score}']:.4f} loss {metrics['val/loss']:.4f}")
        if figures.patience_epochs is not None:
            without_gain = round(metrics["val/epochs_without_gain"])
            parts.append(f"{without_gain} of {figures.patience_epochs} epochs without gain")
    parts += _wait(metrics)
    if figures.seconds_left:
        at_most = "" if figures.patience_epochs is None else " at most"
        parts.append(f"{time_text(max(figures.seconds_left, 1.0))} left{at_most}")
    return " | ".join(parts)


def live_text(figures: Figures, columns: int) -> str:
    """Of no more than `columns`, if need be without the word step, then without one figure after another."""
    metrics = figures.metrics
    step = f"step {figures.step}/{figures.num_steps}"
    told = [f"loss {metrics['train/loss']:.4f}"]
    if (score := _score_name(metrics)) is not None:
        told.append(f"{SCORES[score]} {metrics[f'val/{score}']:.3f}")
    told += [f"{metrics['train/images_per_second']:,.0f} img/s", *_wait(metrics)]
    left = []
    if figures.seconds_left:
        hours = figures.seconds_left / 3600
        text = time_text(max(figures.seconds_left, 1.0)) if hours < 1 else f"{hours:.1f} h"
        left = [f"{text} {'left' if figures.patience_epochs is None else 'at most'}"]
    if len("  ".join([step, *told, *left])) > columns:
        step = step.removeprefix("step ")
    while told and len("  ".join([step, *told, *left])) > columns:
        told.pop()
    return "  ".join([step, *told, *left])


def _score_name(metrics: Mapping[str, float]) -> str | None:
    """None before the first validation."""
    return next((name for name in SCORES if f"val/{name}" in metrics), None)


def _wait(metrics: Mapping[str, float]) -> list[str]:
    """The part of the steps' time in which ranks stood still for a batch; nothing where it is next to none."""
    fraction = metrics.get("loader/wait_fraction", 0.0)
    return [f"wait {100 * fraction:.0f} %"] if fraction >= TOLD_WAIT_FRACTION else []

"""Early stopping: a run ends once its validation figure has not risen for some epochs, and leaves its best weights.

Whether it ends is a function of the history, which is in every checkpoint and the same on all ranks; so no kill and no
world size changes it. The best weights are kept in memory and in the checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

from pipeline.artifacts import SCORES

Row = Mapping[str, int | float]
Weights = dict[str, torch.Tensor]


def epochs_without_gain(figures: Sequence[float]) -> int:
    """Epochs since the first of the highest figures: 0 when the last is higher than all before it."""
    return len(figures) - 1 - figures.index(max(figures))


class Patience:
    """With `epochs` None nothing is kept, and a run goes on to its last epoch and leaves that one's weights."""

    def __init__(self, epochs: int | None):
        self._epochs = epochs
        self.weights: Weights | None = None
        """Of the best epoch so far, on the CPU."""

    @property
    def keeps_best(self) -> bool:
        return self._epochs is not None

    def end_epoch(self, history: Sequence[Row], take: Callable[[], Weights | None]) -> None:
        """`take` gives the weights that were validated; it is called on all ranks or on none."""
        if self._epochs is not None and not history[-1]["epochs_without_gain"]:
            self.weights = take()

    def is_over(self, history: Sequence[Row]) -> bool:
        """Whether nothing is to be trained any more, before the last epoch."""
        return self._epochs is not None and bool(history) and history[-1]["epochs_without_gain"] >= self._epochs

    def exported(self, history: Sequence[Row]) -> Row:
        """The row of the epoch whose weights are left."""
        return history[-1] if self._epochs is None else history[-1 - history[-1]["epochs_without_gain"]]

    def ending(self, history: Sequence[Row], num_epochs: int) -> str:
        """Why training ended where it did, of `num_epochs` that it was to have at most."""
        if self._epochs is None:
            return f"all of {num_epochs} epochs"
        best = self.exported(history)
        score = next(name for name in SCORES if f"validation_{name}" in best)
        highest = f"validation {SCORES[score]} was highest in epoch {best['epoch']} ({best[f'validation_{score}']:.4f})"
        best = f"{highest}, whose weights are left"
        if not self.is_over(history):
            return f"all of {num_epochs} epochs; {best}"
        return (
            f"stopped early, after epoch {history[-1]['epoch']} of {num_epochs}: {best}, and has not risen in the "
            f"{self._epochs} since (training.patience_epochs)"
        )

"""What a run means to train on, kept in its folder: the ledger is checked against it after params.yaml has moved on."""

from collections.abc import Sequence

from pipeline import params
from pipeline.artifacts import Artifact, Index
from pipeline.errors import ParamsError
from pipeline.loading.balance import balanced_order
from pipeline.loading.order import REMOTE_WINDOW_SAMPLES, Steps, num_steps_per_epoch, order
from pipeline.loading.read import SplitReader


def settled(loading: params.Loading, index: Index) -> params.Loading:
    """With the window that null stands for with this index. To be done before a run is named: it decides the order.

    Raises ParamsError for what a multi-label set cannot have.
    """
    if index.multi_label and loading.sampling == "balanced":
        raise ParamsError(
            "loading.sampling=balanced draws every class equally often, and an image of this multi-label set has any "
            "number of them; use sampling: uniform, and training.balance: class_weights for rare classes."
        )
    is_given = loading.shuffle_window_samples is not None or loading.sampling == "balanced"
    if index.location is None or is_given:
        return loading
    return loading.model_copy(update={"shuffle_window_samples": REMOTE_WINDOW_SAMPLES})


class Plan(Artifact):
    """plan.json: with the index, it decides every step of the run."""

    index_digest: str
    seed: int
    num_epochs: int
    loading: params.Loading

    def steps_per_epoch(self, shard_sizes: Sequence[int]) -> int:
        return num_steps_per_epoch(sum(shard_sizes), self.loading.global_batch_size, self.loading.lanes)

    def epoch(self, epoch: int, reader: SplitReader) -> Steps:
        """The order of one epoch, counted from 0, of the training split that `reader` reads."""
        which = {
            "seed": self.seed,
            "epoch": epoch,
            "digest": self.index_digest,
            "global_batch_size": self.loading.global_batch_size,
        }
        if self.loading.sampling == "balanced":
            return balanced_order(reader.shard_class_counts, reader.labels, **which)
        return order(reader.shard_sizes, lanes=self.loading.lanes, window=self.loading.shuffle_window_samples, **which)

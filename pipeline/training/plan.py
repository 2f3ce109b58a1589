"""What a run means to train on, kept in its folder: the ledger is checked against it after params.yaml has moved on."""

from collections.abc import Sequence

from pipeline import params
from pipeline.artifacts import Artifact
from pipeline.loading.order import Order, num_steps_per_epoch, order


class Plan(Artifact):
    """plan.json: with the index, it decides every step of the run."""

    index_digest: str
    seed: int
    num_epochs: int
    loading: params.Loading

    def steps_per_epoch(self, shard_sizes: Sequence[int]) -> int:
        return num_steps_per_epoch(sum(shard_sizes), self.loading.global_batch_size, self.loading.lanes)

    def epoch(self, epoch: int, shard_sizes: Sequence[int]) -> Order:
        """The order of one epoch of the training split, counted from 0."""
        return order(
            shard_sizes,
            seed=self.seed,
            epoch=epoch,
            digest=self.index_digest,
            global_batch_size=self.loading.global_batch_size,
            lanes=self.loading.lanes,
            window=self.loading.shuffle_window_samples,
        )

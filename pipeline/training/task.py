"""What is trained and where: the two things that one rank is told."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import params
from pipeline.modeling.weights import Start
from pipeline.training.folder import RunFolder
from pipeline.training.plan import Plan
from pipeline.training.writer import PATIENCE_SECONDS

EVERYTHING = params.Transfer(mode="full", unfreeze_every_epochs=1, lr_decay=1.0, freeze_normalisation=False)


@dataclass(frozen=True)
class Place:
    """A rank of a world whose process group, where there is more than one rank, is up."""

    rank: int
    world_size: int
    device: str
    """As torch.device takes it."""


@dataclass(frozen=True)
class Task:
    """A run: the same for all its ranks and attempts."""

    run: RunFolder
    index_path: Path
    fingerprint: str
    loading: params.Loading
    augment: params.Augment
    model: params.Model
    optimizer: params.Optimizer
    schedule: params.Schedule
    training: params.Training
    start: Start | None = None
    """Weights for a fresh network; None for random ones."""
    transfer: params.Transfer = EVERYTHING
    handover_seconds: float = PATIENCE_SECONDS
    """How long rank 0 waits for one of an earlier attempt that still holds the run's folder."""

    def is_split(self, place: Place) -> bool:
        """Whether each rank holds a part of the network."""
        return self.training.strategy == "fsdp2" and place.world_size > 1

    def plan(self, index_digest: str) -> Plan:
        return Plan(
            index_digest=index_digest,
            seed=self.training.seed,
            num_epochs=self.training.epochs,
            loading=self.loading,
        )

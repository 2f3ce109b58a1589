"""What lies in a run's folder, and the fingerprint that names it. Imports neither torch nor lightning."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Artifact


class Result(Artifact):
    """result.json: rank 0's last word. The run is done when it is there."""

    fingerprint: str
    num_steps: int
    num_epochs: int
    exported_epoch: int
    """Whose weights are left, counted from 1."""
    ending: str
    """Why training ended where it did."""
    world_size: int
    attempts: int
    num_parameters: int
    train_seconds: float
    images_per_second: float
    validation: dict[str, float]
    history: list[dict[str, int | float]]
    """A row per epoch."""
    thresholds: list[float]
    """Of a run on a multi-label set, the probability of each class from which on an image is said to have it."""
    weights_sha256: str


@dataclass(frozen=True)
class RunFolder:
    """Everything of one run; nothing of another run is ever in it."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger"

    @property
    def plan(self) -> Path:
        """What the run means to train on."""
        return self.path / "plan.json"

    @property
    def stop(self) -> Path:
        """While it is there, the ranks commit a checkpoint after their next step and end."""
        return self.path / "stop"

    @property
    def writer(self) -> Path:
        """Locked by the rank 0 that writes here."""
        return self.path / ".writer.lock"

    @property
    def spool(self) -> Path:
        """Metrics as rank 0 measured them."""
        return self.path / "metrics.jsonl"

    @property
    def files(self) -> Path:
        """What the run's page in MLflow shows besides curves."""
        return self.path / "files"

    @property
    def notices(self) -> Path:
        """What rank 0 has to say to the person at the driver, a line each."""
        return self.path / "notices.txt"

    def say(self, text: str) -> None:
        with open(self.notices, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    @property
    def weights(self) -> Path:
        """What the finished run exports."""
        return self.path / "weights.safetensors"

    @property
    def result(self) -> Path:
        return self.path / "result.json"


def fingerprint(params: dict[str, dict], index_digest: str, weights_digest: str) -> str:
    """Names a run: equal for equal params (those that decide its outcome), data and starting weights. 16 hex digits."""
    text = json.dumps([params, index_digest, weights_digest], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

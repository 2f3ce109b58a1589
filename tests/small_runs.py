"""Runs in miniature for tests of training: the task, and a spool that remembers."""

from pathlib import Path

import projects

from pipeline import params
from pipeline.training.folder import RunFolder
from pipeline.training.task import Task


def task(index_path, folder, *, fingerprint="f", epochs=3, lr=0.01, loading=None, **more):
    """A run of three epochs on `index_path`; `more` are further changes to params.yaml, section by section."""
    sections = params.read(projects.REPOSITORY / "params.yaml")
    changes = {
        "loading": {"global_batch_size": 8, "lanes": 2, "shuffle_window_samples": None, "workers_per_rank": 1}
        | (loading or {}),
        "augment": {"crop_scale": (0.5, 1.0), "horizontal_flip": True, "color_jitter": 0.2},
        "model": {"backbone": "test_resnet", "weights": "none", "input_px": 32, "drop_rate": 0.3},
        "optimizer": {"name": "adamw", "lr": lr, "weight_decay": 0.05, "momentum": 0.9},
        "schedule": {"name": "cosine", "warmup_fraction": 0.1, "final_lr_fraction": 0.0},
        "training": {
            "epochs": epochs, "patience_epochs": None, "progressive_px": None, "strategy": "ddp", "seed": 0,
            "precision": "fp32", "loss": "cross_entropy", "balance": "none", "label_smoothing": 0.1, "ema_decay": 0.9,
            "clip_norm": 1.0, "checkpoint_every_seconds": 1e-9, "keep_checkpoints": 100, "ledger": "full",
        },
    }  # fmt: skip
    changed = {name: sections[name].model_copy(update=values | more.get(name, {})) for name, values in changes.items()}
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint=fingerprint, **changed)


class Sink:
    """Keeps rank 0's metrics; raises at a step, as a kill would end the process there."""

    def __init__(self, stop_at=None, metric="train/loss"):
        self.lines, self._stop_at, self._metric = [], stop_at, metric

    def append(self, step, metrics, epoch=None):
        self.lines.append((step, metrics))
        if step == self._stop_at and self._metric in metrics:
            raise KilledError

    def open(self, path: Path, position: int):
        return self


class KilledError(Exception):
    pass

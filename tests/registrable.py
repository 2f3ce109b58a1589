"""Folders as the other stages leave them for register: a model of seeded weights, and figures that fit it."""

from pathlib import Path

import timm
import torch

from pipeline.artifacts import Index, Run, index_digest
from pipeline.metrics import Metrics
from pipeline.registry import export
from pipeline.stages import layout

CLASSES = ["o", "x"]
DIGEST = index_digest(CLASSES, [])


def write(folder: Path, *, tracking_uri: str, seed: int = 0, top1: float = 0.95) -> None:
    """Leaves in `folder` what register reads, but for params.yaml; `tracking_uri` is that of the training run."""
    (folder / layout.REPORT).mkdir(parents=True)
    (folder / layout.SHARDS).mkdir(exist_ok=True)
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=2)
    sha256 = export.write(
        folder / layout.MODEL,
        model,
        backbone="test_resnet",
        classes=CLASSES,
        input_px=32,
        num_channels=3,
        mean=[0.5] * 3,
        std=[0.2] * 3,
    )
    Index(
        classes=CLASSES,
        image_extension="jpg",
        num_channels=3,
        mean=[0.5] * 3,
        std=[0.2] * 3,
        metadata_columns=[],
        splits={},
        num_records=0,
        num_rejects=0,
        digest=DIGEST,
    ).write(folder / layout.INDEX)
    run(tracking_uri=tracking_uri).write(folder / layout.RUN)
    metrics(sha256, top1).write(folder / layout.METRICS)


def run(*, tracking_uri: str, run_id: str | None = None, index_digest: str = DIGEST) -> Run:
    """What train says of its run."""
    return Run(
        fingerprint="f" * 16,
        run_id=run_id,
        tracking_uri=tracking_uri,
        index_digest=index_digest,
        backbone="test_resnet",
        num_parameters=1,
        num_steps=40,
        num_epochs=2,
        exported_epoch=2,
        ending="all of 2 epochs",
        world_size=1,
        attempts=1,
        train_seconds=1.0,
        images_per_second=1.0,
        validation={},
    )


def metrics(weights_sha256: str, top1: float, index_digest: str = DIGEST) -> Metrics:
    """What evaluate says of these weights; every figure but top-1 is a half."""
    names = ("top5", "loss", "macro_precision", "macro_recall", "macro_f1", "ece")
    return Metrics(
        split="test",
        num_samples=100,
        index_digest=index_digest,
        weights_sha256=weights_sha256,
        per_class={},
        slices={},
        **dict.fromkeys(("top1", "top1_low", "top1_high"), top1),
        **dict.fromkeys(names, 0.5),
    )

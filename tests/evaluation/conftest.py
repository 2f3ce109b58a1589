"""Small real things to evaluate: tars with their tables, a module whose logits are its pixels, an evaluated model."""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from audits import NO_PICTURES, audit_with
from PIL import Image

from pipeline import artifacts, sample_table
from pipeline.evaluation.gallery import surest_mistakes
from pipeline.evaluation.metrics import measure
from pipeline.evaluation.predict import predict
from pipeline.evaluation.report import Evaluated


@dataclass
class Batch:
    images_BCHW: torch.Tensor
    labels_B: torch.Tensor
    mask_B: torch.Tensor
    keys_B: np.ndarray


class PixelsAreLogits(torch.nn.Module):
    """The first K values of an image are its logits; so a sample's answer never depends on its batch."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return images_BCHW.flatten(1)[:, : self.num_classes]


def _batches(pixels_NK: np.ndarray, labels_N: np.ndarray, keys_N: np.ndarray, sizes: list[int], padding: int):
    """Cut into `sizes` (the last takes the rest), each with `padding` masked copies of its first sample."""
    start = 0
    for size in [*sizes, len(labels_N)]:
        rows = np.arange(start, min(start + size, len(labels_N)))
        start += size
        if len(rows):
            padded = np.concatenate([rows, np.full(padding, rows[0])])
            yield Batch(
                torch.from_numpy(pixels_NK[padded][:, None, None, :]),
                torch.from_numpy(labels_N[padded]),
                torch.from_numpy(np.arange(len(padded)) < len(rows)),
                keys_N[padded],
            )


def _predictions(pixels_NK, labels_N, *, sizes=(), padding=0, top_k=5, temperature=1.0, keys_N=None, classes=None):
    """`predict` over uint8 `pixels_NK` with mean 0.5 and std 0.1: a logit is (pixel / 255 - 0.5) / 0.1."""
    num_classes = pixels_NK.shape[1]
    keys_N = np.arange(len(labels_N), dtype=np.uint64) if keys_N is None else keys_N
    return predict(
        PixelsAreLogits(num_classes),
        _batches(np.asarray(pixels_NK, np.uint8), np.asarray(labels_N, np.int64), keys_N, list(sizes), padding),
        classes=classes or [f"class {k}" for k in range(num_classes)],
        mean=[0.5],
        std=[0.1],
        temperature=temperature,
        top_k=top_k,
        device="cpu",
    )


@pytest.fixture(scope="session")
def predictions():
    return _predictions


def _encoded(colour: tuple[int, int, int], height: int = 24, width: int = 32) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="session")
def encoded():
    return _encoded


def _write_shards(
    folder: Path, classes: list[str], splits: dict[str, list[dict]], metadata_columns=(), per_shard: int = 3
) -> artifacts.Index:
    """Tars, tables and index of samples given as {key, image, label, about}; `about` is the JSON member, or bytes."""
    shards: dict[str, list[artifacts.Shard]] = {}
    for split, samples in splits.items():
        (folder / split).mkdir(parents=True)
        shards[split] = []
        for start in range(0, len(samples), per_shard):
            name = f"{split}/{split}-{start // per_shard:06d}"
            shards[split].append(_write_shard(folder, name, samples[start : start + per_shard], len(classes)))
    every = [shard for split in shards.values() for shard in split]
    index = artifacts.Index(
        classes=classes, image_extension="jpg", num_channels=3, mean=[0.5] * 3, std=[0.25] * 3,
        metadata_columns=list(metadata_columns), splits=shards, num_records=sum(s.num_samples for s in every) + 1,
        num_rejects=1, digest=artifacts.index_digest(classes, every),
    )  # fmt: skip
    index.write(folder / "index.json")
    return index


def _write_shard(folder: Path, name: str, samples: list[dict], num_classes: int) -> artifacts.Shard:
    tar_path, table = folder / f"{name}.tar", np.zeros(len(samples), sample_table.SAMPLE_DTYPE)
    with tarfile.open(tar_path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row, sample in zip(table, samples, strict=True):
            about = sample["about"] if isinstance(sample["about"], bytes) else json.dumps(sample["about"]).encode()
            members = {
                "image": ("jpg", sample["image"]),
                "cls": ("cls", b"%d" % sample["label"]),
                "json": ("json", about),
            }
            row["key"], row["label"] = sample["key"], sample["label"]
            for field, (ending, data) in members.items():
                member = tarfile.TarInfo(f"{sample['key']:09d}.{ending}")
                member.size = len(data)
                if field != "cls":
                    row[f"{field}_offset"], row[f"{field}_bytes"] = tar.offset + tarfile.BLOCKSIZE, len(data)
                tar.addfile(member, io.BytesIO(data))
    np.save(folder / f"{name}.npy", table)
    return artifacts.Shard(
        name=name, num_samples=len(samples), num_bytes=tar_path.stat().st_size, sha256=artifacts.file_sha256(tar_path),
        table_sha256=artifacts.file_sha256(folder / f"{name}.npy"),
        class_counts=np.bincount(table["label"], minlength=num_classes).tolist(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def write_shards():
    return _write_shards


def _run(index_digest: str) -> artifacts.Run:
    return artifacts.Run(
        fingerprint="0123456789abcdef", run_id=None, tracking_uri="https://mlflow.example/", index_digest=index_digest,
        backbone="test_resnet", num_parameters=12345, num_steps=100, num_epochs=3, exported_epoch=3,
        ending="all of 3 epochs", world_size=2, attempts=1,
        train_seconds=71.4, images_per_second=1234.5, validation={"loss": 0.25, "top1": 0.9},
    )  # fmt: skip


@pytest.fixture(scope="session")
def run_record():
    return _run


HISTORY = {
    "epoch": [1.0, 2.0, 3.0], "step": [10.0, 20.0, 30.0], "train_loss": [1.5, 0.7, 0.4],
    "validation_loss": [1.4, 0.8, 0.6], "validation_top1": [0.5, 0.8, 0.9],
    "validation_mean_ap": [float("nan")] * 3, "epochs_without_gain": [0.0] * 3, "lr": [0.1, 0.1, 0.1],
    "images_per_second": [100.0, 100.0, 100.0],
}  # fmt: skip


@pytest.fixture
def history() -> dict[str, list[float]]:
    return {name: list(values) for name, values in HISTORY.items()}


def _evaluated(
    pixels_NK,
    labels_N,
    *,
    classes=None,
    paths=None,
    slices=None,
    history=None,
    num_mistakes=4,
    audit=None,
    pictures=None,
) -> Evaluated:  # fmt: skip
    """Everything the page needs, for these logits and labels; every image is one grey square."""
    num_classes = pixels_NK.shape[1]
    classes = classes or [f"class {k}" for k in range(num_classes)]
    table = _predictions(pixels_NK, labels_N, classes=classes)
    table = table.add_column(1, "path", pa.array(paths or [f"photos/{n}.jpg" for n in range(table.num_rows)]))
    for column, values in (slices or {}).items():
        table = table.append_column(f"slice_{column}", pa.array(values, pa.string()))
    counts = np.bincount(labels_N, minlength=num_classes).tolist()
    shard = artifacts.Shard(
        name="test/test-000000", num_samples=len(labels_N), num_bytes=1, sha256="", table_sha256="", class_counts=counts
    )
    index = artifacts.Index(
        classes=classes, image_extension="jpg", num_channels=3, mean=[0.5] * 3, std=[0.25] * 3, metadata_columns=[],
        splits={"train": [shard], "test": [shard]}, num_records=2 * len(labels_N) + 1, num_rejects=1,
        digest=hashlib.sha256(b"index").hexdigest(),
    )  # fmt: skip
    sizes = pa.array(np.full(table.num_rows, 32), pa.int32())
    metrics = measure(table, classes, split="test", index_digest=index.digest, weights_sha256="f" * 64)
    return Evaluated(
        table=table,
        samples=pa.table({"width": sizes, "height": sizes}),
        metrics=metrics,
        index=index,
        run=_run(index.digest),
        history=history or HISTORY,
        mistakes=surest_mistakes(table, classes, num_mistakes, lambda keys: {k: _encoded((128,) * 3) for k in keys}),
        audit=audit or audit_with(),
        pictures=pictures or NO_PICTURES,
        mirror=False,
    )


@pytest.fixture(scope="session")
def evaluated():
    return _evaluated

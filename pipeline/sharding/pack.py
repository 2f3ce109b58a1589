"""Samples -> a shard's files: the tar, its table of offsets, its DALI index; each has its name when it is whole."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SAMPLE_DTYPE, Shard, file_sha256
from pipeline.sharding.dali import dali_index
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.resume import finish, unfinished
from pipeline.sharding.tar import TarWriter
from pipeline.sharding.workers import Advance

SAMPLES_PER_REPORT = 16
ENDINGS = ("tar", "npy", "idx")
"""Of a shard's files: the samples, their table, DALI's index."""


class Sample(NamedTuple):
    label: int
    image: bytes
    facts: bytes
    """What its JSON says."""


def pack_shard(
    folder: Path,
    name: str,
    first_key: int,
    samples: Iterable[Sample],
    image_extension: str,
    num_classes: int,
    advance: Advance,
) -> Shard:
    """The shard as an index lists it; its keys count on from the first. One sample is held at a time."""
    tar_path, table_path, dali_path = (folder / f"{name}.{ending}" for ending in ENDINGS)
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with TarWriter(unfinished(tar_path)) as tar:
        for key, sample in enumerate(samples, first_key):
            rows.append((key, *_add(tar, f"{key:0{KEY_DIGITS}d}", sample, image_extension)))
            if len(rows) % SAMPLES_PER_REPORT == 0:
                advance(SAMPLES_PER_REPORT)
    advance(len(rows) % SAMPLES_PER_REPORT)
    table = np.array(rows, SAMPLE_DTYPE)
    with unfinished(table_path).open("wb") as file:
        np.save(file, table, allow_pickle=False)
    unfinished(dali_path).write_text(dali_index(table, image_extension), encoding="ascii")
    for path in (tar_path, table_path, dali_path):
        finish(path)
    return Shard(
        name=name,
        num_samples=len(rows),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
        table_sha256=file_sha256(table_path),
        class_counts=np.bincount(table["label"], minlength=num_classes).tolist(),
    )


def _add(tar: TarWriter, stem: str, sample: Sample, image_extension: str) -> tuple[int, int, int, int, int]:
    """What SAMPLE_DTYPE says after the key."""
    image_offset = tar.add(f"{stem}.{image_extension}", sample.image)
    tar.add(f"{stem}.cls", str(sample.label).encode())
    json_offset = tar.add(f"{stem}.json", sample.facts)
    return image_offset, len(sample.image), json_offset, len(sample.facts), sample.label

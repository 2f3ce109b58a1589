"""Samples -> a shard's files: the tar, its table of offsets, its DALI index; each has its name when it is whole."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Shard, file_sha256
from pipeline.sample_table import SAMPLE_DTYPE, count_classes, multi_label_dtype, pack_labels
from pipeline.sharding.dali import dali_index
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.resume import finish, unfinished
from pipeline.sharding.tar import TarWriter
from pipeline.sharding.workers import Advance

SAMPLES_PER_REPORT = 16
ENDINGS = ("tar", "npy", "idx")
"""Of a shard's files: the samples, their table, DALI's index."""


class Sample(NamedTuple):
    labels: int | Sequence[int]
    """One, or of a multi-label set any number, ascending."""
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
    multi_label: bool,
    advance: Advance,
) -> Shard:
    """The shard as an index lists it; its keys count on from the first. One sample is held at a time."""
    tar_path, table_path, dali_path = (folder / f"{name}.{ending}" for ending in ENDINGS)
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with TarWriter(unfinished(tar_path)) as tar:
        for key, sample in enumerate(samples, first_key):
            places = _add(tar, f"{key:0{KEY_DIGITS}d}", sample, image_extension)
            rows.append((key, *places, pack_labels(sample.labels, num_classes) if multi_label else sample.labels))
            if len(rows) % SAMPLES_PER_REPORT == 0:
                advance(SAMPLES_PER_REPORT)
    advance(len(rows) % SAMPLES_PER_REPORT)
    table = np.array(rows, multi_label_dtype(num_classes) if multi_label else SAMPLE_DTYPE)
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
        class_counts=count_classes(table, num_classes),
    )


def class_member(labels: int | Sequence[int]) -> bytes:
    """What a sample's `cls` member says; empty for a sample of a multi-label set, which has none: readers take what a
    `cls` holds for one number. Its labels stand in its JSON."""
    return str(labels).encode() if isinstance(labels, int) else b""


def _add(tar: TarWriter, stem: str, sample: Sample, image_extension: str) -> tuple[int, int, int, int]:
    """What a row of the table says after the key and before the labels."""
    image_offset = tar.add(f"{stem}.{image_extension}", sample.image)
    of_class = class_member(sample.labels)
    if of_class:
        tar.add(f"{stem}.cls", of_class)
    json_offset = tar.add(f"{stem}.json", sample.facts)
    return image_offset, len(sample.image), json_offset, len(sample.facts)

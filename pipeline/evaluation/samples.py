"""What the tars say about each sample of a split: path, size, metadata; and single images by key.

Members are read by the offsets of the sample tables, so nothing is scanned and nothing is unpacked.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.artifacts import Index, Shard
from pipeline.errors import ArtifactError

SLICE = "slice_"
"""Prefix of the columns that hold metadata."""


OpenShard = Callable[[Shard], AbstractContextManager[tuple[np.ndarray, Path]]]
"""Gives the table of a shard's samples and its tar."""


def read_samples(open_shard: OpenShard, index: Index, split: str) -> pa.Table:
    """A row per sample, sorted by key: key, path, width, height (pixels), then `slice_<column>` texts (null: unset).

    Raises ArtifactError naming the tar and the sample that cannot be read.
    """
    rows = []
    for shard in index.splits[split]:
        with _opened(open_shard, shard) as (table, descriptor, tar_path):
            for key, offset, num_bytes in zip(
                table["key"].tolist(), table["json_offset"].tolist(), table["json_bytes"].tolist(), strict=True
            ):
                rows.append((key, *_parse(_pread(descriptor, tar_path, key, offset, num_bytes), tar_path, key)))
    rows.sort(key=lambda row: row[0])
    keys, paths, widths, heights, metadata = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    columns = {
        "key": pa.array(keys, pa.uint64()),
        "path": pa.array(paths, pa.string()),
        "width": pa.array(widths, pa.int32()),
        "height": pa.array(heights, pa.int32()),
    }
    for name in index.metadata_columns:
        columns[SLICE + name] = pa.array([_text(each.get(name)) for each in metadata], pa.string())
    return pa.table(columns)


def read_images(open_shard: OpenShard, index: Index, split: str, keys: Iterable[int]) -> dict[int, bytes]:
    """The encoded images of these samples, by key. Raises ArtifactError for a key that the split does not hold."""
    wanted = np.array(sorted(set(keys)), np.uint64)
    images: dict[int, bytes] = {}
    for shard in index.splits[split]:
        with _opened(open_shard, shard) as (table, descriptor, tar_path):
            for row in table[np.isin(table["key"], wanted)]:
                key = int(row["key"])
                images[key] = _pread(descriptor, tar_path, key, int(row["image_offset"]), int(row["image_bytes"]))
    missing = [int(key) for key in wanted if int(key) not in images]
    if missing:
        raise ArtifactError(
            f"The {split} split has no sample {missing[0]}; run `convoy evaluate` again, "
            "and `convoy verify` if this repeats."
        )
    return images


@contextmanager
def _opened(open_shard: OpenShard, shard: Shard) -> Iterator[tuple[np.ndarray, int, Path]]:
    with open_shard(shard) as (table, tar_path):
        descriptor = os.open(tar_path, os.O_RDONLY)
        try:
            yield table, descriptor, tar_path
        finally:
            os.close(descriptor)


def _pread(descriptor: int, tar_path: Path, key: int, offset: int, num_bytes: int) -> bytes:
    data = os.pread(descriptor, num_bytes, offset)
    if len(data) != num_bytes:
        raise ArtifactError(
            f"{tar_path} ends inside sample {key} ({len(data)} of {num_bytes} bytes at {offset}); "
            "run `convoy verify`, then `convoy shard`."
        )
    return data


def _parse(data: bytes, tar_path: Path, key: int) -> tuple[str, int, int, dict]:
    try:
        about = json.loads(data)
        return about["path"], about["width"], about["height"], about["metadata"] or {}
    except (ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"{tar_path} holds no readable description of sample {key} ({type(exc).__name__}: {exc}); "
            "run `convoy verify`, then `convoy shard`."
        ) from exc


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)

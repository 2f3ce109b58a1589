"""One planned shard -> its tar, its table of offsets and its DALI index. One task of a worker process.

Holds one image at a time. What cannot be decoded becomes a reject; the keys of the others do not change by it.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SAMPLE_DTYPE, Reject, Shard, file_sha256
from pipeline.errors import ImageError, SourceError
from pipeline.sharding.digests import DIGEST_BYTES
from pipeline.sharding.encode import NO_PIXELS, ChannelSums, Encoded, encode
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.reading import read_image
from pipeline.sharding.tar import TarWriter
from pipeline.sharding.workers import Advance

IMAGE_EXTENSION = "jpg"
DALI_INDEX_VERSION = "v1.2"
IMAGES_PER_REPORT = 16


class ShardWork(NamedTuple):
    """All that a process needs to write one shard; one entry a record in the lists."""

    folder: Path
    name: str
    first_key: int
    image_root: Path
    short_side_px: int | None
    jpeg_quality: int
    num_classes: int
    paths: list[str]
    labels: list[int]
    groups: list[str | None]
    metadata: list[str]
    digests: bytes


class WrittenShard(NamedTuple):
    shard: Shard | None
    """None, and no files, when every record was rejected."""
    rejects: list[tuple[int, Reject]]
    """With their positions in the work."""
    sizes: np.ndarray
    """int32 [num_records, 2]: height and width of the source, 0 of a reject."""
    sums: ChannelSums


def write_shard(work: ShardWork, advance: Advance) -> WrittenShard:
    """Raises SourceError when an image is another one than when it was hashed."""
    tar_path = work.folder / f"{work.name}.tar"
    rows, dali_lines, rejects, sums = [], [], [], NO_PIXELS
    sizes = np.zeros((len(work.paths), 2), np.int32)
    with TarWriter(tar_path) as tar:
        for position in range(len(work.paths)):
            if (position + 1) % IMAGES_PER_REPORT == 0:
                advance(IMAGES_PER_REPORT)
            try:
                encoded = _encode(work, position)
            except ImageError as exc:
                rejects.append((position, Reject(path=work.paths[position], reason=exc.reason, detail=str(exc))))
                continue
            sizes[position] = encoded.source_height, encoded.source_width
            sums += encoded.sums
            row, dali_line = _add_sample(tar, work, position, encoded)
            rows.append(row)
            dali_lines.append(dali_line)
    advance(len(work.paths) % IMAGES_PER_REPORT)
    if not rows:
        tar_path.unlink()
        return WrittenShard(None, rejects, sizes, sums)
    table = np.array(rows, SAMPLE_DTYPE)
    table_path = tar_path.with_suffix(".npy")
    np.save(table_path, table, allow_pickle=False)
    dali_text = "\n".join([f"{DALI_INDEX_VERSION} {len(rows)}", *dali_lines]) + "\n"
    tar_path.with_suffix(".idx").write_text(dali_text, encoding="ascii")
    shard = Shard(
        name=work.name,
        num_samples=len(rows),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
        table_sha256=file_sha256(table_path),
        class_counts=np.bincount(table["label"], minlength=work.num_classes).tolist(),
    )
    return WrittenShard(shard, rejects, sizes, sums)


def _encode(work: ShardWork, position: int) -> Encoded:
    data = read_image(work.image_root, work.paths[position])
    if hashlib.sha256(data).digest() != _digest(work, position):
        raise SourceError(
            f"{work.paths[position]} changed while it was being sharded; let the source rest and run this again."
        )
    return encode(data, work.short_side_px, work.jpeg_quality)


def _add_sample(tar: TarWriter, work: ShardWork, position: int, encoded: Encoded) -> tuple[tuple, str]:
    """The sample's row in the table (SAMPLE_DTYPE) and its line in the DALI index."""
    key, label = work.first_key + position, work.labels[position]
    facts = {
        "path": work.paths[position],
        "sha256": _digest(work, position).hex(),
        "height": encoded.source_height,
        "width": encoded.source_width,
        "group": work.groups[position],
        "metadata": json.loads(work.metadata[position]),
    }
    members = {
        IMAGE_EXTENSION: encoded.data,
        "cls": str(label).encode(),
        "json": json.dumps(facts, sort_keys=True, separators=(",", ":")).encode(),
    }
    names = {extension: f"{key:0{KEY_DIGITS}d}.{extension}" for extension in members}
    offsets = {extension: tar.add(names[extension], data) for extension, data in members.items()}
    row = (
        key,
        offsets[IMAGE_EXTENSION],
        len(members[IMAGE_EXTENSION]),
        offsets["json"],
        len(members["json"]),
        label,
    )
    dali_line = " ".join(f"{ext} {offsets[ext]} {len(data)} {names[ext]}" for ext, data in members.items())
    return row, dali_line


def _digest(work: ShardWork, position: int) -> bytes:
    return work.digests[position * DIGEST_BYTES : (position + 1) * DIGEST_BYTES]

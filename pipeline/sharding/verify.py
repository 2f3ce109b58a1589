"""A shard set on disk against its index: every byte hashed, every tar header read and compared with the table.

Stops at the first damaged file and says what is wrong with it.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.artifacts import SPLITS, Index, Shard, file_sha256
from pipeline.errors import ArtifactError
from pipeline.sample_table import count_classes, is_multi_label, labels_of, read_stored_table
from pipeline.sharding.index import all_shards
from pipeline.sharding.pack import class_member
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.tar import BLOCK_BYTES, member_end

WAY_OUT = "run `convoy shard` again (or `dvc checkout --force data/shards`)"


Bring = Callable[[str, Shard], AbstractContextManager[tuple[np.ndarray, Path]]]
"""Gives a shard's stored table and its tar from the address that the shards lie at."""


def verify_shard_set(index_path: Path, advance: Callable[[int], None], bring: Bring | None = None) -> Index:
    """The index, when everything is whole; `advance` is told of samples checked. `bring` is for shards at an address.

    Raises ArtifactError naming the first damaged file.
    """
    index = Index.read(index_path, made_by="shard")
    num_samples = sum(map(index.num_samples, SPLITS))
    if num_samples + index.num_rejects != index.num_records:
        raise ArtifactError(
            f"{index_path} counts {num_samples} samples and {index.num_rejects} rejects, but {index.num_records} "
            f"records; {WAY_OUT}."
        )
    _check_nothing_else(index_path.parent, index)
    for shard in all_shards(index.splits):
        here = index.location is None
        with _beside(index_path, shard) if here else bring(index.location, shard) as (table, tar_path):
            _verify_shard(index_path, index, shard, table, tar_path)
        advance(shard.num_samples)
    return index


@contextmanager
def _beside(index_path: Path, shard: Shard) -> Iterator[tuple[np.ndarray, Path]]:
    yield read_stored_table(index_path, shard), index_path.parent / f"{shard.name}.tar"


def _verify_shard(index_path: Path, index: Index, shard: Shard, table: np.ndarray, tar_path: Path) -> None:
    if sorted({*shard.tombstones} & {*range(len(table))}) != shard.tombstones:
        raise ArtifactError(
            f"{index_path} has tombstones in {shard.name} that are not rows of its table, ascending; {WAY_OUT}."
        )
    live = np.delete(table, shard.tombstones)
    if is_multi_label(table) != index.multi_label or count_classes(live, len(index.classes)) != shard.class_counts:
        raise ArtifactError(f"{index_path} counts other classes in {shard.name} than its table; {WAY_OUT}.")
    if not tar_path.exists():
        raise ArtifactError(f"{tar_path} is missing; {WAY_OUT}.")
    num_bytes = tar_path.stat().st_size
    if num_bytes != shard.num_bytes:
        raise ArtifactError(f"{tar_path} has {num_bytes} bytes, the index says {shard.num_bytes}; {WAY_OUT}.")
    with tar_path.open("rb") as tar:
        problem = _first_problem(tar, table, index.image_extension)
    if problem is None and file_sha256(tar_path) != shard.sha256:
        problem = "its headers are whole, but bytes between them changed (its sha256 is another)"
    if problem is not None:
        raise ArtifactError(f"{tar_path} is damaged: {problem}; {WAY_OUT}.")


def _first_problem(tar: BinaryIO, table: np.ndarray, image_extension: str) -> str | None:
    """What a walk over the headers finds to differ from the table."""
    header_offset = 0
    for row in table:
        stem, labels = f"{row['key']:0{KEY_DIGITS}d}", labels_of(row)
        cls = class_member(labels)
        image, facts = f"{stem}.{image_extension}", f"{stem}.json"
        expected = [(image, row["image_bytes"]), (facts, row["json_bytes"])]
        if cls:
            expected.insert(1, (f"{stem}.cls", len(cls)))
        for name, num_bytes in expected:
            tar.seek(header_offset)
            problem = _header_problem(tar.read(BLOCK_BYTES), name, int(num_bytes))
            if problem is None and name.endswith(".cls") and tar.read(len(cls)) != cls:
                problem = f"does not hold the label {cls.decode()}"
            if problem is None and name == facts and not cls and _labels_in(tar.read(int(num_bytes))) != labels:
                problem = f"does not hold the labels {labels}"
            if problem is not None:
                return f"{name} at byte {header_offset} {problem}"
            data_offset = header_offset + BLOCK_BYTES
            table_says = {image: row["image_offset"], facts: row["json_offset"]}.get(name, data_offset)
            if table_says != data_offset:
                return f"{name} begins at byte {data_offset}, its table says {table_says}"
            header_offset = member_end(data_offset, int(num_bytes))
    return None


def _labels_in(facts: bytes) -> object:
    """None for what is no JSON object with labels."""
    try:
        return json.loads(facts)["labels"]
    except (ValueError, KeyError, TypeError):
        return None


def _header_problem(block: bytes, name: str, num_bytes: int) -> str | None:
    try:
        header = tarfile.TarInfo.frombuf(block, "ascii", "backslashreplace")
    except tarfile.HeaderError as exc:
        return f"has no valid header ({exc})"
    if header.name != name:
        return f"is {header.name!r} instead"
    if header.size != num_bytes:
        return f"has {header.size} bytes instead of {num_bytes}"
    return None


def _check_nothing_else(folder: Path, index: Index) -> None:
    """A tar that the index does not know would be read by everyone who lists the folder."""
    known = {f"{shard.name}.tar" for shard in all_shards(index.splits)}
    unknown: Iterable[str] = sorted({str(path.relative_to(folder)) for path in folder.glob("*/*.tar")} - known)
    for name in unknown:
        raise ArtifactError(f"{folder / name} is not in the index; move it elsewhere or {WAY_OUT}.")

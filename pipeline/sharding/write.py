"""One planned shard -> its files, from the images of the source. One task of a worker process.

Copies what the first pass (`inspect`) saw: an encoded image from its piece file, an image that keeps its own bytes
from the source, where it must still be the same. Holds one image at a time.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import stores
from pipeline.artifacts import Shard, file_sha256
from pipeline.errors import ImageError, SourceError
from pipeline.sharding.destination import has_shard, send_shard
from pipeline.sharding.inspect import Looks, read_spooled
from pipeline.sharding.pack import ENDINGS, Sample, pack_shard
from pipeline.sharding.reading import read_image
from pipeline.sharding.records import Facts, FactsFile
from pipeline.sharding.resume import read_seal, write_seal
from pipeline.sharding.workers import Advance


class ShardWork(NamedTuple):
    """All that a process needs to write one shard."""

    folder: Path
    name: str
    first_key: int
    image_root: str
    spool: Path
    num_records: int
    """Of the whole manifest."""
    num_classes: int
    multi_label: bool
    image_extension: str
    location: str | None
    """Address that the shard goes to; None for the folder."""
    rows: np.ndarray
    """int32: rows of the manifest."""
    labels: list[int] | list[tuple[int, ...]]
    """One a row, or of a multi-label set any number."""


def write_shard(work: ShardWork, advance: Advance) -> Shard:
    """Raises SourceError when an image is another one than in the first pass. A finished shard is not written again."""
    looks = Looks(work.spool, work.num_records).rows(work.rows)
    facts = list(FactsFile(work.spool).rows(work.rows))
    digest, seal_path = _digest(work, facts, looks), work.spool / f"{Path(work.name).name}.seal"
    seal = read_seal(seal_path)
    shard = _finished(work, seal["shard"]) if seal is not None and seal["work"] == digest else None
    if shard is not None:
        advance(len(looks))
    else:
        shard = _write(work, facts, looks, advance)
        if work.location is not None:
            send_shard(shard, work.folder, work.location)
        write_seal(seal_path, {"work": digest, "shard": shard.model_dump()})
    return shard


def _write(work: ShardWork, facts: list[Facts], looks: np.ndarray, advance: Advance) -> Shard:
    samples = (
        Sample(labels, _image_bytes(work, row, each.path, look), facts_member(each, look, labels))
        for row, (labels, each, look) in enumerate(zip(work.labels, facts, looks, strict=True))
    )
    return pack_shard(
        work.folder,
        work.name,
        work.first_key,
        samples,
        work.image_extension,
        work.num_classes,
        work.multi_label,
        advance,
    )


def _digest(work: ShardWork, facts: list[Facts], looks: np.ndarray) -> str:
    """Of all that decides the shard's bytes."""
    decides = (work.location, work.name, work.first_key, work.num_classes, work.labels, facts)
    return hashlib.sha256(json.dumps(decides).encode() + looks.tobytes()).hexdigest()


def _finished(work: ShardWork, sealed: dict) -> Shard | None:
    """The shard of an earlier run, when its files are still what they were."""
    shard = Shard(**sealed)
    if work.location is not None:
        return shard if has_shard(shard, work.location) else None
    paths = [work.folder / f"{work.name}.{ending}" for ending in ENDINGS]
    if not all(path.exists() for path in paths):
        return None
    is_whole = (file_sha256(paths[0]), file_sha256(paths[1])) == (shard.sha256, shard.table_sha256)
    return shard if is_whole else None


def _image_bytes(work: ShardWork, position: int, path: str, look: np.void) -> bytes:
    if look["spool_bytes"]:
        return read_spooled(work.spool, int(work.rows[position]), look)
    changed = (
        f"{stores.without_secrets(path)} changed while it was being sharded; let the source rest and run this again."
    )
    try:
        data = read_image(work.image_root, path)
    except ImageError as exc:
        raise SourceError(changed) from exc
    if hashlib.sha256(data).digest() != look["sha256"].tobytes():
        raise SourceError(changed)
    return data


def facts_member(facts: Facts, look: np.void, labels: int | Sequence[int]) -> bytes:
    """What a sample's JSON says; the labels only where they may be several: one alone has a member of its own."""
    says = {
        "path": facts.path,
        "sha256": look["sha256"].tobytes().hex(),
        "height": int(look["height"]),
        "width": int(look["width"]),
        "group": facts.group,
        "metadata": json.loads(facts.metadata),
    }
    if not isinstance(labels, int):
        says["labels"] = labels
    return json.dumps(says, sort_keys=True, separators=(",", ":")).encode()

"""The shard set that is there already: what its tars hold, once all of it was found to be what its index says."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Index, MadeWith, Shard, file_sha256, read_stored_table
from pipeline.errors import ArtifactError
from pipeline.sharding.dali import dali_index
from pipeline.sharding.index import all_shards
from pipeline.sharding.inspect import Looks
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.plan import Taken
from pipeline.sharding.records import Facts
from pipeline.sharding.split import part_name, part_of
from pipeline.sharding.workers import Advance, Workers
from pipeline.sharding.write import facts_member

IDENTITY_DTYPE = np.dtype([("image", "<u8", 2), ("facts", "<u8", 2), ("content", "<u8")])
"""128 bits each of path and content, which have a part, and of all that a sample's members say beside the pixels; and
the first bytes of the content's digest."""


Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""(what is being done, how many images) -> something that is told of images done."""


class Stored(NamedTuple):
    """A whole former set: every sample in its tars, tombstones too, in the index's order."""

    index: Index
    folder: Path
    identities: np.ndarray
    """IDENTITY_DTYPE [num_stored]"""
    parts: np.ndarray
    """int8 [num_stored]"""
    taken: Taken


class SurveyWork(NamedTuple):
    """A task of a worker process."""

    index_path: Path
    shard: Shard
    image_extension: str


def open_former(
    index_path: Path | None,
    rules: dict[str, MadeWith],
    classes: Sequence[str],
    metadata_columns: Sequence[str],
    workers: Workers,
    progress: Progress,
) -> tuple[Stored | None, str | None]:
    """The former set, when it can grow; else what is in the way."""
    if index_path is None or not index_path.exists():
        return None, None
    try:
        index = Index.read(index_path, made_by="shard")
        changed = _what_changed(index, rules, classes, metadata_columns)
        if changed:
            return None, f"{', '.join(changed)} changed"
        return open_shard_set(index_path, index, workers, progress), None
    except ArtifactError as exc:
        return None, f"it is damaged ({exc})"


def open_shard_set(index_path: Path, index: Index, workers: Workers, progress: Progress) -> Stored:
    """Reads and checks every shard. Raises ArtifactError when one is not what the index says."""
    shards = all_shards(index.splits)
    works = (SurveyWork(index_path, shard, index.image_extension) for shard in shards)
    with progress("checking what is there", sum(shard.num_stored for shard in shards)) as advance:
        found = list(workers.map(survey_shard, works, advance))
    numbers: dict[str, int] = {}
    for shard in shards:
        part, number = part_name(part_of(shard.name)), int(shard.name.rpartition("-")[2])
        numbers[part] = max(numbers.get(part, 0), number + 1)
    return Stored(
        index,
        index_path.parent,
        np.concatenate([identities for identities, _ in found]),
        np.repeat(np.array([part_of(shard.name) for shard in shards], np.int8), [each.num_stored for each in shards]),
        Taken(max(next_key for _, next_key in found), numbers),
    )


def identities_of(manifest: Manifest, labels: np.ndarray, looks: Looks) -> np.ndarray:
    """IDENTITY_DTYPE [num_records]: those that the records would have as samples."""
    records = zip(*(manifest.values(name) for name in Facts._fields), labels, strict=True)
    identities, start = np.empty(manifest.num_rows, IDENTITY_DTYPE), 0
    for of_batch in looks.batches():
        pairs = zip(islice(records, len(of_batch)), of_batch, strict=True)
        identities[start : start + len(of_batch)] = _identities(
            (facts[0], label, facts_member(Facts(*facts), look), look["sha256"].tobytes())
            for (*facts, label), look in pairs
        )
        start += len(of_batch)
    return identities


def _what_changed(
    index: Index, rules: dict[str, MadeWith], classes: Sequence[str], metadata_columns: Sequence[str]
) -> list[str]:
    """Names of what forbids that the set grows, since it was made with something else."""
    missing = object()
    names = sorted({*index.made_with, *rules})
    changed = [name for name in names if index.made_with.get(name, missing) != rules.get(name, missing)]
    changed += ["the classes"] if index.classes != list(classes) else []
    return changed + (["metadata_columns"] if index.metadata_columns != list(metadata_columns) else [])


def survey_shard(work: SurveyWork, advance: Advance) -> tuple[np.ndarray, int]:
    """IDENTITY_DTYPE [num_stored], and the first key after the shard's."""
    table, path = read_stored_table(work.index_path, work.shard), work.index_path.parent / f"{work.shard.name}.tar"
    try:
        sha256 = file_sha256(path)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} is missing") from exc
    if sha256 != work.shard.sha256:
        raise ArtifactError(f"{path} was changed after it was written")
    dali_path, live = path.with_suffix(".idx"), np.delete(table, work.shard.tombstones)
    if not dali_path.exists() or dali_path.read_text(encoding="ascii") != dali_index(live, work.image_extension):
        raise ArtifactError(f"{dali_path} is missing or was changed after it was written")
    samples = []
    with path.open("rb") as tar:
        for row in table:
            tar.seek(row["json_offset"])
            facts = tar.read(row["json_bytes"])
            says = json.loads(facts)
            samples.append((says["path"], int(row["label"]), facts, bytes.fromhex(says["sha256"])))
    advance(len(samples))
    return _identities(samples), int(table["key"][-1]) + 1


def _identities(samples: Iterable[tuple[str, int, bytes, bytes]]) -> np.ndarray:
    """IDENTITY_DTYPE; of path, label, JSON member and the sha256 of the source of each."""
    hashed = (
        hashlib.blake2b(digest + path.encode(), digest_size=16).digest()
        + hashlib.blake2b(b"%d " % label + facts, digest_size=16).digest()
        + digest[:8]
        for path, label, facts, digest in samples
    )
    return np.frombuffer(b"".join(hashed), IDENTITY_DTYPE)

"""The shard set that is there already: what its tars hold, once all of it was found to be what its index says."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Index, MadeWith, Shard, file_sha256
from pipeline.errors import ArtifactError
from pipeline.sample_table import read_stored_table
from pipeline.sharding.dali import dali_index
from pipeline.sharding.destination import fetch_identities, fetch_table
from pipeline.sharding.identity import identities_in
from pipeline.sharding.index import all_shards
from pipeline.sharding.labels import Labels
from pipeline.sharding.plan import Taken
from pipeline.sharding.split import part_name, part_of
from pipeline.sharding.workers import Advance, Workers

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
    location: str | None
    shard: Shard
    image_extension: str


def open_former(
    index_path: Path | None,
    rules: dict[str, MadeWith],
    labels: Labels,
    metadata_columns: Sequence[str],
    workers: Workers,
    progress: Progress,
) -> tuple[Stored | None, str | None]:
    """The former set, when it can grow; else what is in the way."""
    if index_path is None or not index_path.exists():
        return None, None
    try:
        index = Index.read(index_path, made_by="shard")
        changed = _what_changed(index, rules, labels, metadata_columns)
        if changed:
            return None, f"{', '.join(changed)} changed"
        return open_shard_set(index_path, index, workers, progress), None
    except ArtifactError as exc:
        return None, f"it is damaged ({exc})"


def open_shard_set(index_path: Path, index: Index, workers: Workers, progress: Progress) -> Stored:
    """Reads and checks every shard. Raises ArtifactError when one is not what the index says."""
    shards = all_shards(index.splits)
    works = (SurveyWork(index_path, index.location, shard, index.image_extension) for shard in shards)
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


def _what_changed(
    index: Index,
    rules: dict[str, MadeWith],
    labels: Labels,
    metadata_columns: Sequence[str],
) -> list[str]:
    """Names of what forbids that the set grows, since it was made with something else."""
    missing = object()
    names = sorted({*index.made_with, *rules})
    changed = [name for name in names if index.made_with.get(name, missing) != rules.get(name, missing)]
    changed += ["the classes"] if index.classes != labels.classes else []
    changed += ["whether an image has one class"] if index.multi_label != (labels.sets is not None) else []
    return changed + (["metadata_columns"] if index.metadata_columns != list(metadata_columns) else [])


def survey_shard(work: SurveyWork, advance: Advance) -> tuple[np.ndarray, int]:
    """IDENTITY_DTYPE [num_stored], and the first key after the shard's."""
    table = read_table(work.index_path, work.location, work.shard)
    if work.location is None:
        identities = _identities_beside(work, table)
    else:
        identities = fetch_identities(work.shard, work.location)
    advance(len(identities))
    return identities, int(table["key"][-1]) + 1


def read_table(index_path: Path, location: str | None, shard: Shard) -> np.ndarray:
    """The shard's stored table, from beside the index or from where the shards lie."""
    return read_stored_table(index_path, shard) if location is None else fetch_table(shard, location)


def _identities_beside(work: SurveyWork, table: np.ndarray) -> np.ndarray:
    path = work.index_path.parent / f"{work.shard.name}.tar"
    try:
        sha256 = file_sha256(path)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} is missing") from exc
    if sha256 != work.shard.sha256:
        raise ArtifactError(f"{path} was changed after it was written")
    dali_path, live = path.with_suffix(".idx"), np.delete(table, work.shard.tombstones)
    if not dali_path.exists() or dali_path.read_text(encoding="ascii") != dali_index(live, work.image_extension):
        raise ArtifactError(f"{dali_path} is missing or was changed after it was written")
    return identities_in(path, table)

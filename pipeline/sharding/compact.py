"""A grown shard set -> the same samples in fewer, full shards, without tombstones: a generation 0.

The images are copied as they are, from tar to tar, in the order in which a set that is written anew has them: where no
look-alikes came later, what comes out is the same to the byte.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Index, Shard, index_digest
from pipeline.errors import ArtifactError
from pipeline.sample_table import is_multi_label, labels_of, read_sample_table, read_stored_table
from pipeline.sharding.former import Progress, Stored, open_shard_set
from pipeline.sharding.growth import is_live
from pipeline.sharding.index import all_shards, write_index
from pipeline.sharding.manifest import class_names
from pipeline.sharding.pack import Sample, pack_shard
from pipeline.sharding.pictures import PICTURES
from pipeline.sharding.plan import plan_shards
from pipeline.sharding.split import part_of
from pipeline.sharding.tar import BLOCK_BYTES, member_end
from pipeline.sharding.workers import Advance, LocalWorkers


class Savings(NamedTuple):
    num_tombstones: int
    num_bytes: int
    """That the tombstones take in the tars."""
    num_shards: int
    num_shards_after: int

    @property
    def is_nothing(self) -> bool:
        return not self.num_tombstones and self.num_shards == self.num_shards_after


class CompactWork(NamedTuple):
    """A task of a worker process: a shard to write, from rows of tars that are there."""

    source: Path
    folder: Path
    name: str
    first_key: int
    rows: np.ndarray
    """Of the tables, in the new order."""
    names: list[str]
    """Of the shard in which each row lies."""
    image_extension: str
    num_classes: int
    multi_label: bool


def find_savings(index_path: Path) -> Savings:
    """Raises ArtifactError for shards that lie elsewhere, and when it is not known how the set was made."""
    index = Index.read(index_path, made_by="shard")
    shards = all_shards(index.splits)
    if index.location is not None:
        raise ArtifactError(
            f"The shards lie at {index.location}, and only such beside {index_path} are compacted; to write them anew, "
            f"remove {index_path.parent} and run `convoy shard`."
        )
    if "samples_per_shard" not in index.made_with:
        raise ArtifactError(
            f"{index_path} does not say how its shards were made, as an earlier version wrote it; run `convoy shard`, "
            "which writes them anew."
        )
    num_live = Counter()
    for shard in shards:
        num_live[part_of(shard.name)] += shard.num_samples
    num_after = sum(math.ceil(number / index.made_with["samples_per_shard"]) for number in num_live.values())
    return Savings(
        sum(len(shard.tombstones) for shard in shards),
        sum(_tombstone_bytes(index_path, shard) for shard in shards if shard.tombstones),
        len(shards),
        num_after,
    )


def compact_shard_set(index_path: Path, folder: Path, num_workers: int | None, progress: Progress) -> Index:
    """Leaves the compacted set in `folder`, which is empty before. Raises ArtifactError for a damaged set."""
    former = Index.read(index_path, made_by="shard")
    with LocalWorkers(num_workers) as workers:
        try:
            stored = open_shard_set(index_path, former, workers, progress)
        except ArtifactError as exc:
            raise ArtifactError(f"{exc}; run `convoy shard`, which writes a damaged set anew.") from exc
        works = list(_works(stored, index_path, folder))
        with progress("writing", sum(len(work.rows) for work in works)) as advance:
            shards = list(workers.map(compact_shard, works, advance))
    split_of_part = {part_of(shard.name): split for split, of_split in former.splits.items() for shard in of_split}
    splits: dict[str, list[Shard]] = {split: [] for split in former.splits}
    for shard in shards:
        splits[split_of_part[part_of(shard.name)]].append(shard)
    digest = index_digest(former.classes, all_shards(splits))
    index = former.model_copy(update={"splits": splits, "generation": 0, "digest": digest})
    write_index(index, folder)
    shutil.copyfile(index_path.with_name(PICTURES), folder / PICTURES)
    return index


def compact_shard(work: CompactWork, advance: Advance) -> Shard:
    return pack_shard(
        work.folder,
        work.name,
        work.first_key,
        _samples(work),
        work.image_extension,
        work.num_classes,
        work.multi_label,
        advance,
    )


def _samples(work: CompactWork) -> Iterator[Sample]:
    for row, name in zip(work.rows, work.names, strict=True):
        with (work.source / f"{name}.tar").open("rb", buffering=0) as tar:
            tar.seek(row["image_offset"])
            image = tar.read(row["image_bytes"])
            tar.seek(row["json_offset"])
            yield Sample(labels_of(row), image, tar.read(row["json_bytes"]))


def _works(stored: Stored, index_path: Path, folder: Path) -> Iterator[CompactWork]:
    index, shards = stored.index, all_shards(stored.index.splits)
    rows = np.concatenate([read_sample_table(index_path, shard) for shard in shards])
    shard_numbers = np.repeat(np.arange(len(shards)), [shard.num_samples for shard in shards])
    live = is_live(stored)
    contents, parts = stored.identities["content"][live], stored.parts[live]

    def manifest_key(place: int) -> tuple[bytes, int | str]:
        row = rows[place]
        with (stored.folder / f"{shards[shard_numbers[place]].name}.tar").open("rb") as tar:
            tar.seek(row["json_offset"])
            path = json.loads(tar.read(row["json_bytes"]))["path"]
        return path.encode(), _label_key(labels_of(row), index)

    order = _by_path(contents, manifest_key)
    plan = plan_shards(parts[order], contents[order], index.made_with["samples_per_shard"], index.made_with["seed"])
    for planned in plan:
        places = order[planned.rows]
        yield CompactWork(
            source=stored.folder.absolute(),
            folder=folder.absolute(),
            name=planned.name,
            first_key=planned.first_key,
            rows=rows[places],
            names=[shards[number].name for number in shard_numbers[places].tolist()],
            image_extension=index.image_extension,
            num_classes=len(index.classes),
            multi_label=index.multi_label,
        )


def _label_key(labels: int | list[int], index: Index) -> int | str:
    """What records of one path are ordered by in a manifest, or what gives the same order."""
    return labels if isinstance(labels, int) else class_names(index.classes[label] for label in labels)


def _by_path(contents: np.ndarray, path_of: Callable[[int], tuple[bytes, int | str]]) -> np.ndarray:
    """int64 [num_samples]: all places, those of equal images in the order of their paths, as a manifest has them."""
    order = np.arange(len(contents))
    _, inverse, counts = np.unique(contents, return_inverse=True, return_counts=True)
    equal = np.flatnonzero(counts[inverse] > 1)
    by_content = equal[np.argsort(inverse[equal], kind="stable")]
    groups = np.split(by_content, np.flatnonzero(np.diff(inverse[by_content])) + 1)
    for places in groups:
        order[places] = sorted(places.tolist(), key=path_of)
    return order


def _tombstone_bytes(index_path: Path, shard: Shard) -> int:
    removed = read_stored_table(index_path, shard)[shard.tombstones]
    cls_bytes = 0 if is_multi_label(removed) else 2 * BLOCK_BYTES
    return sum(
        2 * BLOCK_BYTES + member_end(0, int(row["image_bytes"])) + cls_bytes + member_end(0, int(row["json_bytes"]))
        for row in removed
    )

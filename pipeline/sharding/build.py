"""A manifest -> a shard set: hash, split, plan, encode and write, index, audit.

Every record ends as one sample of one shard or as one reject. What comes out depends on the images and the
parameters, never on the number of workers. The caller provides a private folder and renames it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import SPLITS, Index, Reject, Shard
from pipeline.sharding.audit import Audit, Samples, audit_samples, has_too_many_rejects
from pipeline.sharding.digests import hash_records
from pipeline.sharding.encode import NO_PIXELS, ChannelSums
from pipeline.sharding.index import make_index, write_companions
from pipeline.sharding.plan import PlannedShard, plan_shards
from pipeline.sharding.split import NO_SPLIT, assign_splits, check_no_split_is_empty
from pipeline.sharding.workers import Advance, Workers
from pipeline.sharding.write import ShardWork, WrittenShard, write_shard

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""(what is being done, how many images) -> something that is told of images done."""


class SplitRule(NamedTuple):
    validation_fraction: float
    test_fraction: float
    seed: int


class ShardForm(NamedTuple):
    """What a shard looks like: the `shards` parameters that decide bytes."""

    short_side_px: int | None
    jpeg_quality: int
    samples_per_shard: int


class Built(NamedTuple):
    index: Index | None
    """None when there were too many rejects; the folder is then not to be used."""
    audit: Audit
    rejects: list[Reject]
    """In the manifest's order."""


def build_shard_set(
    folder: Path,
    manifest: pa.Table,
    image_root: Path,
    split_rule: SplitRule,
    form: ShardForm,
    num_workers: int | None,
    max_rejected_fraction: float,
    progress: Progress,
) -> Built:
    """Writes tars, tables, index.json and the companions for other readers into `folder`.

    Raises SourceError when a split comes out empty or an image changes meanwhile.
    """
    # Worker processes have a working directory of their own.
    folder, image_root = folder.absolute(), image_root.absolute()
    num_records = manifest.num_rows
    classes = sorted(pc.unique(manifest["class_name"]).to_pylist())
    labels = pc.index_in(manifest["class_name"], pa.array(classes)).to_numpy()
    with Workers(num_workers) as workers:
        with progress("hashing", num_records) as advance:
            digests, rejects = hash_records(manifest["path"], image_root, workers, advance)
        splits = assign_splits(manifest["split"].to_pylist(), manifest["group"].to_pylist(), digests, *split_rule)
        splits[list(rejects)] = NO_SPLIT
        if not has_too_many_rejects(len(rejects), num_records, max_rejected_fraction):
            _check_splits(splits, split_rule)
        plan = plan_shards(splits, digests, form.samples_per_shard, split_rule.seed)
        for planned in plan:
            (folder / planned.name).parent.mkdir(exist_ok=True)
        work = _work(plan, folder, manifest, image_root, labels, digests, len(classes), form)
        with progress("encoding", num_records - len(rejects)) as advance:
            written = _gather(plan, workers.map(write_shard, work, advance), rejects, num_records)
    splits[list(rejects)] = NO_SPLIT
    in_order = [rejects[row] for row in sorted(rejects)]
    is_sample = splits != NO_SPLIT
    paths = manifest["path"].filter(pa.array(is_sample))
    found = (labels, splits, digests, written.sizes)
    audit = audit_samples(Samples(paths, *(column[is_sample] for column in found)), classes, in_order, num_records)
    if has_too_many_rejects(len(rejects), num_records, max_rejected_fraction):
        return Built(None, audit, in_order)
    _check_splits(splits, split_rule)
    index = make_index(classes, written.shards, written.sums, _metadata_columns(manifest), num_records, len(rejects))
    assert sum(map(index.num_samples, SPLITS)) == audit.num_samples, "samples were lost on the way into shards"
    index.write(folder / "index.json")
    write_companions(index, folder)
    return Built(index, audit, in_order)


class _Written(NamedTuple):
    shards: dict[str, list[Shard]]
    sums: ChannelSums
    """Over the training split."""
    sizes: np.ndarray
    """int32 [num_records, 2]"""


def _gather(
    plan: list[PlannedShard], results: Iterable[WrittenShard], rejects: dict[int, Reject], num_records: int
) -> _Written:
    """Adds the rejects of the shards to `rejects`."""
    shards, sums, sizes = {split: [] for split in SPLITS}, NO_PIXELS, np.zeros((num_records, 2), np.int32)
    for planned, result in zip(plan, results, strict=True):
        sizes[planned.rows] = result.sizes
        rejects.update({int(planned.rows[position]): reject for position, reject in result.rejects})
        if result.shard is not None:
            shards[planned.split].append(result.shard)
            sums += result.sums if planned.split == "train" else NO_PIXELS
    return _Written(shards, sums, sizes)


def _work(
    plan: list[PlannedShard],
    folder: Path,
    manifest: pa.Table,
    image_root: Path,
    labels: np.ndarray,
    digests: np.ndarray,
    num_classes: int,
    form: ShardForm,
) -> Iterator[ShardWork]:
    """One piece at a time: only the shards in flight exist as Python objects."""
    for planned in plan:
        rows = manifest.select(["path", "group", "metadata"]).take(pa.array(planned.rows))
        yield ShardWork(
            folder=folder,
            name=planned.name,
            first_key=planned.first_key,
            image_root=image_root,
            short_side_px=form.short_side_px,
            jpeg_quality=form.jpeg_quality,
            num_classes=num_classes,
            paths=rows["path"].to_pylist(),
            labels=labels[planned.rows].tolist(),
            groups=rows["group"].to_pylist(),
            metadata=rows["metadata"].to_pylist(),
            digests=digests[planned.rows].tobytes(),
        )


def _check_splits(splits: np.ndarray, rule: SplitRule) -> None:
    counts = [int((splits == code).sum()) for code in range(len(SPLITS))]
    check_no_split_is_empty(counts, rule.validation_fraction, rule.test_fraction)


def _metadata_columns(manifest: pa.Table) -> list[str]:
    """All records of a scan have the same ones."""
    return sorted(json.loads(manifest["metadata"][0].as_py()))

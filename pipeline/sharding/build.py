"""A manifest -> a shard set: look at every image, split, audit, plan, write, index.

Every record ends as one sample of one shard or as one reject. What comes out depends on the images and the
parameters, never on the number of workers, nor on how often the work was killed and taken up again.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import SPLITS, Index, Reject, Shard
from pipeline.sharding.alike import group_alike
from pipeline.sharding.audit import Audit, AuditRule, Samples, audit_samples, is_refused
from pipeline.sharding.encode import NO_PIXELS, ChannelSums
from pipeline.sharding.groups import alone, group_equal
from pipeline.sharding.index import make_index, write_companions
from pipeline.sharding.inspect import RECORDS_PER_PIECE, Looks, Piece, inspect_records
from pipeline.sharding.likeness import LIKENESS_DTYPE
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.plan import PlannedShard, plan_shards
from pipeline.sharding.reading import absolute_root
from pipeline.sharding.records import FactsFile
from pipeline.sharding.split import NO_SPLIT, assign_splits, check_no_split_is_empty, speaking_digests
from pipeline.sharding.workers import Advance, Workers
from pipeline.sharding.write import ENDINGS, ShardWork, WrittenShard, write_shard

Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""(what is being done, how many images) -> something that is told of images done."""


class SplitRule(NamedTuple):
    validation_fraction: float
    test_fraction: float
    seed: int
    near_duplicates_together: bool = True


class ShardForm(NamedTuple):
    """What a shard looks like: the `shards` parameters that decide bytes."""

    short_side_px: int | None
    jpeg_quality: int
    samples_per_shard: int


class Built(NamedTuple):
    index: Index | None
    """None when the audit refused the source; the folder is then not to be used."""
    audit: Audit
    rejects: list[Reject]
    """In the manifest's order."""


def build_shard_set(
    folder: Path,
    work: Path,
    manifest: Manifest,
    image_root: str,
    split_rule: SplitRule,
    form: ShardForm,
    audit_rule: AuditRule,
    num_workers: int | None,
    progress: Progress,
) -> Built:
    """Leaves tars, tables, index.json and the companions for other readers in `folder`, which is empty before.

    Everything is made in `work` (see `resume`), on the same disk; the caller removes that once the set is in its place.
    Raises SourceError when a split comes out empty or an image changes meanwhile.
    """
    # Worker processes have a working directory of their own.
    spool, made, image_root = work.absolute() / "spool", work.absolute() / "set", absolute_root(image_root)
    spool.mkdir(exist_ok=True)
    num_records = manifest.num_rows
    classes, labels = _labels(manifest)
    with Workers(num_workers) as workers:
        looks, facts = Looks(spool, num_records), FactsFile(spool)
        looks.create()
        facts.create(manifest)
        with progress("decoding", num_records) as advance:
            rejects = inspect_records(_pieces(manifest, image_root, spool, form), workers, advance)
        alike = _alike(looks, num_records, audit_rule.near_duplicate_bits)
        splits = _assign(manifest, looks, alike, split_rule)
        splits[list(rejects)] = NO_SPLIT
        in_order = list(rejects.values())
        samples = _samples(manifest, labels, splits, alike, looks, facts)
        audit = audit_samples(samples, classes, in_order, num_records, audit_rule)
        del samples, alike
        if is_refused(audit, audit_rule.max_rejected_fraction):
            return Built(None, audit, in_order)
        check_no_split_is_empty(
            list(audit.samples_by_split.values()), split_rule.validation_fraction, split_rule.test_fraction
        )
        plan = plan_shards(splits, looks.contents(), form.samples_per_shard, split_rule.seed)
        del splits
        for planned in plan:
            (made / planned.name).parent.mkdir(parents=True, exist_ok=True)
        shard_works = _work(plan, made, image_root, spool, labels, num_records, len(classes))
        with progress("writing", audit.num_samples) as advance:
            shards, sums = _gather(plan, workers.map(write_shard, shard_works, advance))
    index = make_index(classes, shards, sums, _metadata_columns(manifest), num_records, len(rejects))
    assert sum(map(index.num_samples, SPLITS)) == audit.num_samples, "samples were lost on the way into shards"
    _remove_all_but(plan, made)
    index.write(made / "index.json")
    write_companions(index, made)
    made.replace(folder)
    return Built(index, audit, in_order)


def _labels(manifest: Manifest) -> tuple[list[str], np.ndarray]:
    """The classes in order, and the label of each record, int32 [num_records]."""
    names = {name for batch in manifest.batches("class_name") for name in pc.unique(batch["class_name"]).to_pylist()}
    classes = sorted(names)
    positions, labels, start = pa.array(classes, pa.string()), np.empty(manifest.num_rows, np.int32), 0
    for batch in manifest.batches("class_name"):
        labels[start : start + len(batch)] = pc.index_in(batch["class_name"], positions).to_numpy()
        start += len(batch)
    return classes, labels


def _pieces(manifest: Manifest, image_root: str, spool: Path, form: ShardForm) -> Iterator[Piece]:
    paths, first_row = manifest.values("path"), 0
    while of_piece := list(islice(paths, RECORDS_PER_PIECE)):
        yield Piece(spool, first_row, image_root, of_piece, form.short_side_px, form.jpeg_quality)
        first_row += len(of_piece)


def _alike(looks: Looks, num_records: int, max_bits: int | None) -> np.ndarray:
    """Groups of images that look alike."""
    if max_bits is None:
        return alone(num_records)
    hashes, contrasts = looks.column("likeness", "hash"), looks.column("likeness", "contrast")
    return group_alike(hashes, contrasts, lambda rows: looks.rows(rows)["likeness"]["thumb"], max_bits)


def _assign(manifest: Manifest, looks: Looks, alike: np.ndarray, rule: SplitRule) -> np.ndarray:
    together = alike if rule.near_duplicates_together else alone(len(alike))
    digests = speaking_digests(looks.batches("sha256"), together, looks.digests)
    fixed = {split for batch in manifest.batches("split") for split in pc.unique(batch["split"]).to_pylist()} - {None}
    given, groups = manifest.values("split"), manifest.values("group")
    return assign_splits(given, groups, digests, fixed, rule.validation_fraction, rule.test_fraction, rule.seed)


def _samples(
    manifest: Manifest, labels: np.ndarray, splits: np.ndarray, alike: np.ndarray, looks: Looks, facts: FactsFile
) -> Samples:
    kinds = Counter()
    for of_batch in looks.batches("kind"):
        kinds.update(dict(zip(*(each.tolist() for each in np.unique(of_batch, return_counts=True)), strict=True)))
    return Samples(
        labels=labels,
        splits=splits,
        equal=group_equal(looks.contents(), looks.digests),
        alike=alike,
        together=_together(manifest),
        look=lambda name: looks.column(*(("likeness", name) if name in LIKENESS_DTYPE.names else (name,))),
        kinds={kind.decode(): count for kind, count in sorted(kinds.items()) if kind},  # a reject has none
        paths=lambda rows: [each.path for each in facts.rows(rows)],
    )


def _together(manifest: Manifest) -> np.ndarray:
    """The user's groups."""
    leaders, leader_of_group = alone(manifest.num_rows), {}
    for row, group in enumerate(manifest.values("group")):
        if group is not None:
            leaders[row] = leader_of_group.setdefault(group, row)
    return leaders


def _gather(plan: list[PlannedShard], results: Iterable[WrittenShard]) -> tuple[dict[str, list[Shard]], ChannelSums]:
    """The shards by split, and the sums over the training split."""
    shards, sums = {split: [] for split in SPLITS}, NO_PIXELS
    for planned, result in zip(plan, results, strict=True):
        shards[planned.split].append(result.shard)
        sums += result.sums if planned.split == "train" else NO_PIXELS
    return shards, sums


def _work(
    plan: list[PlannedShard],
    folder: Path,
    image_root: str,
    spool: Path,
    labels: np.ndarray,
    num_records: int,
    num_classes: int,
) -> Iterator[ShardWork]:
    """One piece at a time: only the shards in flight exist as Python objects."""
    for planned in plan:
        yield ShardWork(
            folder=folder,
            name=planned.name,
            first_key=planned.first_key,
            image_root=image_root,
            spool=spool,
            num_records=num_records,
            num_classes=num_classes,
            rows=planned.rows,
            labels=labels[planned.rows].tolist(),
        )


def _remove_all_but(plan: list[PlannedShard], made: Path) -> None:
    """What a killed run with another split left."""
    wanted = {made / f"{planned.name}.{ending}" for planned in plan for ending in ENDINGS}
    for path in made.iterdir():
        if path.is_dir():
            for each in path.iterdir():
                if each not in wanted:
                    each.unlink()
            if not any(path.iterdir()):
                path.rmdir()


def _metadata_columns(manifest: Manifest) -> list[str]:
    """All records of a scan have the same ones."""
    return sorted(json.loads(next(manifest.values("metadata"))))

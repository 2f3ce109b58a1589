"""A manifest -> a shard set: look at every image, split, audit, plan, write, index.

Every record ends as one sample of one shard or as one reject. What comes out depends on the images and the
parameters, never on the number of workers, nor on how often the work was killed and taken up again.
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
from pipeline.sharding.alike import group_alike
from pipeline.sharding.audit import Audit, AuditRule, Samples, audit_samples, is_refused
from pipeline.sharding.encode import NO_PIXELS, ChannelSums
from pipeline.sharding.index import make_index, write_companions
from pipeline.sharding.inspect import RECORDS_PER_PIECE, Looks, Piece, inspect_records
from pipeline.sharding.plan import PlannedShard, plan_shards
from pipeline.sharding.reading import absolute_root
from pipeline.sharding.split import NO_SPLIT, assign_splits, check_no_split_is_empty
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
    manifest: pa.Table,
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
    classes = sorted(pc.unique(manifest["class_name"]).to_pylist())
    labels = pc.index_in(manifest["class_name"], pa.array(classes)).to_numpy()
    with Workers(num_workers) as workers:
        looks = Looks(spool, num_records)
        looks.create()
        with progress("decoding", num_records) as advance:
            rejects = inspect_records(_pieces(manifest["path"], image_root, spool, form), workers, advance)
        digests, alike = looks.column("sha256"), _alike(looks, num_records, audit_rule.near_duplicate_bits)
        splits = _assign(manifest, digests, alike, split_rule)
        splits[list(rejects)] = NO_SPLIT
        in_order = list(rejects.values())
        samples = _samples(manifest, labels, splits, alike, looks)
        audit = audit_samples(samples, classes, in_order, num_records, audit_rule)
        if is_refused(audit, audit_rule.max_rejected_fraction):
            return Built(None, audit, in_order)
        check_no_split_is_empty(
            list(audit.samples_by_split.values()), split_rule.validation_fraction, split_rule.test_fraction
        )
        plan = plan_shards(splits, digests, form.samples_per_shard, split_rule.seed)
        for planned in plan:
            (made / planned.name).parent.mkdir(parents=True, exist_ok=True)
        shard_works = _work(plan, made, manifest, image_root, spool, labels, len(classes))
        with progress("writing", audit.num_samples) as advance:
            shards, sums = _gather(plan, workers.map(write_shard, shard_works, advance))
    index = make_index(classes, shards, sums, _metadata_columns(manifest), num_records, len(rejects))
    assert sum(map(index.num_samples, SPLITS)) == audit.num_samples, "samples were lost on the way into shards"
    _remove_all_but(plan, made)
    index.write(made / "index.json")
    write_companions(index, made)
    made.replace(folder)
    return Built(index, audit, in_order)


def _pieces(paths: pa.ChunkedArray, image_root: str, spool: Path, form: ShardForm) -> Iterator[Piece]:
    for first_row in range(0, len(paths), RECORDS_PER_PIECE):
        of_piece = paths.slice(first_row, RECORDS_PER_PIECE).to_pylist()
        yield Piece(spool, first_row, image_root, of_piece, form.short_side_px, form.jpeg_quality)


def _alike(looks: Looks, num_records: int, max_bits: int | None) -> np.ndarray:
    """int64 [num_records]: equal numbers for images that look alike."""
    if max_bits is None:
        return np.arange(num_records)
    hashes, contrasts = looks.column("likeness", "hash"), looks.column("likeness", "contrast")
    return group_alike(hashes, contrasts, lambda rows: looks.rows(rows)["likeness"]["thumb"], max_bits)


def _assign(manifest: pa.Table, digests: np.ndarray, alike: np.ndarray, rule: SplitRule) -> np.ndarray:
    together = alike if rule.near_duplicates_together else np.arange(len(alike))
    given, groups = manifest["split"].to_pylist(), manifest["group"].to_pylist()
    return assign_splits(given, groups, digests, together, rule.validation_fraction, rule.test_fraction, rule.seed)


def _samples(manifest: pa.Table, labels: np.ndarray, splits: np.ndarray, alike: np.ndarray, looks: Looks) -> Samples:
    is_sample = splits != NO_SPLIT
    of_samples = manifest.select(["path", "group"]).filter(pa.array(is_sample))
    kinds, counts = np.unique(looks.column("kind")[is_sample], return_counts=True)
    sizes = np.stack([looks.column("height"), looks.column("width")], axis=1)
    return Samples(
        paths=of_samples["path"],
        labels=labels[is_sample],
        splits=splits[is_sample],
        groups=of_samples["group"],
        digests=looks.column("sha256")[is_sample],
        alike=alike[is_sample],
        sizes=sizes[is_sample],
        brightnesses=looks.column("likeness", "brightness")[is_sample],
        contrasts=looks.column("likeness", "contrast")[is_sample],
        kinds={kind.decode(): count for kind, count in zip(kinds.tolist(), counts.tolist(), strict=True)},
    )


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
    manifest: pa.Table,
    image_root: str,
    spool: Path,
    labels: np.ndarray,
    num_classes: int,
) -> Iterator[ShardWork]:
    """One piece at a time: only the shards in flight exist as Python objects."""
    for planned in plan:
        rows = manifest.select(["path", "group", "metadata"]).take(pa.array(planned.rows))
        yield ShardWork(
            folder=folder,
            name=planned.name,
            first_key=planned.first_key,
            image_root=image_root,
            spool=spool,
            num_records=manifest.num_rows,
            num_classes=num_classes,
            rows=planned.rows,
            paths=rows["path"].to_pylist(),
            labels=labels[planned.rows].tolist(),
            groups=rows["group"].to_pylist(),
            metadata=rows["metadata"].to_pylist(),
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


def _metadata_columns(manifest: pa.Table) -> list[str]:
    """All records of a scan have the same ones."""
    return sorted(json.loads(manifest["metadata"][0].as_py()))

"""A manifest -> a shard set: look at every image, split, audit, plan, write, index.

Every record ends as one sample of one shard or as one reject. What comes out depends on the images and the
parameters, never on the number of workers, nor on how often the work was killed and taken up again.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SPLITS, Index, MadeWith, Reject
from pipeline.findings import Audit
from pipeline.heap import give_back_freed
from pipeline.imaging.channels import Channels
from pipeline.sharding.alike import group_alike
from pipeline.sharding.arrange import Records, arrange, fixed_splits
from pipeline.sharding.audit import AuditRule, Samples, audit_samples, is_refused
from pipeline.sharding.former import Progress, open_former
from pipeline.sharding.groups import alone, group_equal
from pipeline.sharding.growth import UNKNOWN, carry_shards
from pipeline.sharding.index import by_split, make_index, write_index
from pipeline.sharding.inspect import RECORDS_PER_PIECE, Looks, Piece, inspect_records
from pipeline.sharding.labels import Labels, read_labels
from pipeline.sharding.likeness import LIKENESS_DTYPE
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.pictures import PICTURES, Source, draw_pictures
from pipeline.sharding.pixels import find_channels, image_extension, measure_pixels, reject_others
from pipeline.sharding.plan import NOTHING_TAKEN, PlannedShard, plan_shards
from pipeline.sharding.reading import absolute_root
from pipeline.sharding.records import FactsFile
from pipeline.sharding.split import (
    NO_SPLIT,
    SplitRule,
    check_no_split_is_empty,
    splits_of,
)
from pipeline.sharding.workers import Workers
from pipeline.sharding.write import ShardWork, write_shard

MEASURED_RECORDS = 1024
"""Of which mean and standard deviation come, at least. Images' means differ by about half as much as pixels do: the
mean of this many is off by some hundredths of a standard deviation."""


class ShardForm(NamedTuple):
    """What a shard looks like and where it goes: the `shards` parameters that decide the set."""

    short_side_px: int | None
    jpeg_quality: int
    samples_per_shard: int
    destination: str | None = None
    """Address; None for beside the index."""


class Built(NamedTuple):
    index: Index | None
    """None when the audit refused the source; the folder is then not to be used."""
    audit: Audit
    rejects: list[Reject]
    """In the manifest's order."""
    num_new: int
    """Samples in shards that the former set has not."""
    why_anew: str | None
    """What was in the way of growing the former set; None when it grew or when there was none."""


def build_shard_set(
    folder: Path,
    work: Path,
    manifest: Manifest,
    image_root: str,
    split_rule: SplitRule,
    form: ShardForm,
    audit_rule: AuditRule,
    workers: Workers,
    progress: Progress,
    former: Path | None = None,
) -> Built:
    """Leaves tars, tables, index.json and the companions for other readers in `folder`, which is empty before; where
    the form has a destination only the index: tars and tables go there.

    `former` is the index of the set that is there already: what it holds and what is still wanted stays in its tars,
    when it was made by the same rules and is whole. Everything is made in `work` (see `resume`), on the same disk,
    which the machines of all workers see; the caller removes that once the set is in its place.
    Raises SourceError when a split comes out empty or an image changes meanwhile.
    """
    # Worker processes have a working directory of their own.
    spool, made, image_root = work.absolute() / "spool", work.absolute() / "set", absolute_root(image_root)
    spool.mkdir(exist_ok=True)
    num_records = manifest.num_rows
    labels = read_labels(manifest)
    metadata_columns, fixed = _metadata_columns(manifest), fixed_splits(manifest)
    looks, facts, rejects = _look(manifest, image_root, spool, form, workers, progress)
    channels = find_channels(looks)
    rejects = dict(sorted((rejects | reject_others(looks, facts, channels)).items()))
    rules = _rules(split_rule, form, audit_rule, fixed, channels)
    alike = _alike(looks, list(rejects), num_records, audit_rule.near_duplicate_bits)
    stored, why_anew = open_former(former, rules, labels, metadata_columns, workers, progress)
    records = Records(manifest, labels, looks, alike, list(rejects), fixed)
    parts, places = arrange(records, split_rule, stored)
    if stored is not None and places is None:
        stored, why_anew = None, "fewer than half of its samples are still wanted"
    splits = splits_of(parts, split_rule.fold)
    samples = _samples(manifest, labels, splits, alike, looks, facts)
    audit, example_rows = audit_samples(samples, list(rejects.values()), num_records, audit_rule)
    del samples, alike, records
    if is_refused(audit, audit_rule.max_rejected_fraction):
        return Built(None, audit, list(rejects.values()), 0, why_anew)
    check_no_split_is_empty(list(audit.samples_by_split.values()), split_rule)
    pictures = draw_pictures(example_rows, Source(image_root, facts, labels, splits))
    pixels = measure_pixels(looks, spool, splits, channels)
    carried, taken = [], NOTHING_TAKEN
    if stored is not None:
        carried, taken = carry_shards(stored, places, made), stored.taken
        parts = np.where(places == UNKNOWN, parts, NO_SPLIT)
    plan = plan_shards(parts, looks.contents(), form.samples_per_shard, split_rule.seed, taken)
    del splits, parts
    give_back_freed()  # what was planned with is several times what the writing needs
    num_new = sum(len(planned.rows) for planned in plan)
    shard_works = _work(plan, made, image_root, spool, labels, channels, form.destination)
    with progress("writing", num_new) as advance:
        shards = [*carried, *workers.map(write_shard, shard_works, advance)]
    del plan, shard_works
    of_splits = by_split(shards, split_rule.fold)
    index = make_index(
        labels, of_splits, pixels, metadata_columns, num_records, len(rejects), rules, stored and stored.index
    )
    assert sum(map(index.num_samples, SPLITS)) == audit.num_samples, "samples were lost on the way into shards"
    write_index(index, made)
    pictures.write(made / PICTURES)
    made.replace(folder)
    return Built(index, audit, list(rejects.values()), num_new, why_anew)


def _rules(
    split: SplitRule, form: ShardForm, audit: AuditRule, fixed: set[str], channels: Channels
) -> dict[str, MadeWith]:
    """What decides the set beside its images; which fold is the validation split changes no tar."""
    bits = audit.near_duplicate_bits if split.near_duplicates_together else None
    rules = {**split._asdict(), **form._asdict(), "near_duplicate_bits": bits, "fixed_splits": sorted(fixed)}
    del rules["fold"]
    return rules | {"channels": str(channels)}


def _look(
    manifest: Manifest, image_root: str, spool: Path, form: ShardForm, workers: Workers, progress: Progress
) -> tuple[Looks, FactsFile, dict[int, Reject]]:
    """What the first pass saw of the records, what is said of them, and by row those that cannot be decoded."""
    looks, facts = Looks(spool, manifest.num_rows), FactsFile(spool)
    looks.create()
    facts.create(manifest)
    with progress("decoding", manifest.num_rows) as advance:
        rejects = inspect_records(_pieces(manifest, image_root, spool, form), looks, workers, advance)
    return looks, facts, rejects


def _pieces(manifest: Manifest, image_root: str, spool: Path, form: ShardForm) -> Iterator[Piece]:
    rows, first_row = zip(manifest.values("path"), _measured(manifest), strict=True), 0
    while of_piece := list(islice(rows, RECORDS_PER_PIECE)):
        paths, is_measured = map(list, zip(*of_piece, strict=True))
        yield Piece(spool, first_row, image_root, paths, is_measured, form.short_side_px, form.jpeg_quality)
        first_row += len(of_piece)


def _measured(manifest: Manifest) -> Iterator[bool]:
    """Whether a record counts for mean and standard deviation: of those that may come to be trained on all, or every
    so many of a large set. The split rule plays no part, so that the decoded images serve another one, too."""
    splits = Counter()
    for batch in manifest.batches("split"):
        splits.update(batch["split"].to_pylist())
    stride, num_seen = max(1, (splits[None] + splits["train"]) // MEASURED_RECORDS), 0
    for split in manifest.values("split"):
        may_train = split in (None, "train")
        yield may_train and num_seen % stride == 0
        num_seen += may_train


def _alike(looks: Looks, rejected: list[int], num_records: int, max_bits: int | None) -> np.ndarray:
    """Groups of images that look alike; no reject is in one."""
    if max_bits is None:
        return alone(num_records)
    is_meant = np.ones(num_records, bool)
    is_meant[rejected] = False
    return group_alike(
        looks.batches("likeness"), is_meant, lambda rows: looks.rows(rows)["likeness"]["thumb"], max_bits
    )


def _samples(
    manifest: Manifest, labels: Labels, splits: np.ndarray, alike: np.ndarray, looks: Looks, facts: FactsFile
) -> Samples:
    kinds, start = Counter(), 0
    for of_batch in looks.batches("kind"):
        of_samples = of_batch[splits[start : start + len(of_batch)] != NO_SPLIT]
        kinds.update(dict(zip(*(each.tolist() for each in np.unique(of_samples, return_counts=True)), strict=True)))
        start += len(of_batch)
    return Samples(
        labels=labels,
        splits=splits,
        equal=group_equal(looks.contents(), looks.digests),
        alike=alike,
        together=_together(manifest),
        look=lambda name: looks.column(*(("likeness", name) if name in LIKENESS_DTYPE.names else (name,))),
        kinds={kind.decode(): count for kind, count in sorted(kinds.items())},
        paths=lambda rows: [each.path for each in facts.rows(rows)],
    )


def _together(manifest: Manifest) -> np.ndarray:
    """The user's groups."""
    leaders, leader_of_group = alone(manifest.num_rows), {}
    for row, group in enumerate(manifest.values("group")):
        if group is not None:
            leaders[row] = leader_of_group.setdefault(group, row)
    return leaders


def _work(
    plan: list[PlannedShard],
    folder: Path,
    image_root: str,
    spool: Path,
    labels: Labels,
    channels: Channels,
    destination: str | None,
) -> Iterator[ShardWork]:
    """One piece at a time: only the shards in flight exist as Python objects."""
    for planned in plan:
        yield ShardWork(
            folder=folder,
            name=planned.name,
            first_key=planned.first_key,
            image_root=image_root,
            spool=spool,
            num_records=len(labels.codes),
            num_classes=len(labels.classes),
            multi_label=labels.sets is not None,
            image_extension=image_extension(channels),
            location=destination,
            rows=planned.rows,
            labels=labels.of(planned.rows),
        )


def _metadata_columns(manifest: Manifest) -> list[str]:
    """All records of a scan have the same ones."""
    return sorted(json.loads(next(manifest.values("metadata"))))

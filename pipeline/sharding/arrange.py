"""Where each record goes: to which part of the set and, where the set grows, to which place it has there already."""

from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc

from pipeline.artifacts import SPLITS
from pipeline.sharding.former import Stored
from pipeline.sharding.groups import alone
from pipeline.sharding.growth import is_worth_growing, keep
from pipeline.sharding.identity import IDENTITY_DTYPE, hash_identities
from pipeline.sharding.inspect import Looks
from pipeline.sharding.labels import Labels
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.pack import class_member
from pipeline.sharding.records import Facts
from pipeline.sharding.split import NO_SPLIT, SplitRule, assign_parts, speaking_digests, spread_anchors
from pipeline.sharding.write import facts_member


class Records(NamedTuple):
    """What is known of the records after the first pass."""

    manifest: Manifest
    labels: Labels
    looks: Looks
    alike: np.ndarray
    """Groups of images that look alike."""
    rejected: list[int]
    """Rows."""
    fixed: set[str]
    """Splits that the source fixes."""


def arrange(records: Records, rule: SplitRule, stored: Stored | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The records' parts, int8 [num_records], NO_SPLIT of a reject; and their places among the stored samples, int64
    [num_records], UNKNOWN of a new one, or None where all are new and the set is not to grow."""
    if stored is not None:
        parts, places = keep(stored, _identities(records), lambda anchors: _assign(records, rule, anchors))
        if is_worth_growing(stored, places):
            return parts, places
    return _assign(records, rule, None), None


def fixed_splits(manifest: Manifest) -> set[str]:
    """Those that the source fixes."""
    return {split for batch in manifest.batches("split") for split in pc.unique(batch["split"]).to_pylist()} - {None}


def _assign(records: Records, rule: SplitRule, anchors: np.ndarray | None) -> np.ndarray:
    manifest, looks = records.manifest, records.looks
    together = records.alike if rule.near_duplicates_together else alone(len(records.alike))
    spread = np.full(len(together), NO_SPLIT, np.int8)
    if anchors is not None:
        own = zip(manifest.values("split"), manifest.values("group"), strict=True)
        is_free = np.fromiter((group is None and split in (None, "train") for split, group in own), bool)
        # Where the source fixes a split, what lies there was named to lie there, and may now be named otherwise.
        is_free &= ~np.isin(anchors, [SPLITS.index(split) for split in records.fixed - {"train"}])
        spread = spread_anchors(np.where(is_free, anchors, NO_SPLIT), together, looks.digests)
    parts = assign_parts(
        manifest.values("split"),
        manifest.values("group"),
        speaking_digests(looks.batches("sha256"), together, looks.digests),
        records.fixed,
        rule,
        spread,
    )
    parts[records.rejected] = NO_SPLIT
    return parts


def _identities(records: Records) -> np.ndarray:
    """IDENTITY_DTYPE [num_records]: those that the records would have as samples."""
    facts = (records.manifest.values(name) for name in Facts._fields)
    of_records = (Facts(*each) for each in zip(*facts, strict=True))
    identities, start = np.empty(records.manifest.num_rows, IDENTITY_DTYPE), 0
    for of_batch in records.looks.batches():
        rows = slice(start, start + len(of_batch))
        each = zip(islice(of_records, len(of_batch)), of_batch, records.labels.of(rows), strict=True)
        identities[rows] = hash_identities(
            (facts.path, class_member(labels), facts_member(facts, look, labels), look["sha256"].tobytes())
            for facts, look, labels in each
        )
        start = rows.stop
    return identities

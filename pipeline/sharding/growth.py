"""A former shard set and today's records -> which of its samples stay where they are, and which records are new.

A stored sample stays when a record has the same image under the same path, label, part, group and metadata; the rest
of its shard are tombstones. So a changed image is a removal and an addition, and one that comes back is used again.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts import Shard
from pipeline.sample_table import count_classes
from pipeline.sharding.dali import dali_index
from pipeline.sharding.former import Stored, read_table
from pipeline.sharding.index import all_shards
from pipeline.sharding.pack import ENDINGS
from pipeline.sharding.resume import finish, unfinished

UNKNOWN = -1
"""Of a record that lies nowhere yet."""

MIN_KEPT_FRACTION = 0.5
"""Of the samples in the former tars; where fewer stay, the set is written anew rather than grown."""


def keep(
    stored: Stored, identities: np.ndarray, assign: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The records' parts, int8 [num_records], and the place among the stored of each that stays there, or UNKNOWN.

    `assign` is told of each record the part in which its image lies already, or UNKNOWN, int8 [num_records].
    """
    # Live samples first: of a tombstone and a live sample of one image, the live one says where it is.
    order = np.argsort(~is_live(stored), kind="stable")
    known = _pair(_columns(stored.identities[order], "image"), _columns(identities, "image"))
    parts = assign(np.where(known == UNKNOWN, UNKNOWN, stored.parts[order[known]]).astype(np.int8))
    of_stored, of_records = (_columns(each, "image", "facts") for each in (stored.identities, identities))
    return parts, _pair([*of_stored, stored.parts], [*of_records, parts])


def is_worth_growing(stored: Stored, places: np.ndarray) -> bool:
    return int((places != UNKNOWN).sum()) >= MIN_KEPT_FRACTION * len(stored.parts)


def carry_shards(stored: Stored, places: np.ndarray, folder: Path) -> list[Shard]:
    """The former shards that still hold something, as the new index is to list them. Those beside their index come to
    `folder`; those at an address stay there."""
    is_kept = np.zeros(len(stored.parts), bool)
    is_kept[places[places != UNKNOWN]] = True
    carried, first = [], 0
    for shard in all_shards(stored.index.splits):
        is_used = is_kept[first : first + shard.num_stored]
        first += shard.num_stored
        if not is_used.any():
            continue
        tombstones, dali = np.flatnonzero(~is_used).tolist(), None
        if tombstones != shard.tombstones:
            used = read_table(stored.folder / "index.json", stored.index.location, shard)[is_used]
            counts = count_classes(used, len(shard.class_counts))
            changes = {"num_samples": len(used), "class_counts": counts, "tombstones": tombstones}
            shard, dali = shard.model_copy(update=changes), dali_index(used, stored.index.image_extension)
        if stored.index.location is None:
            _carry(stored.folder, shard, dali, folder)
        carried.append(shard)
    return carried


def _carry(source: Path, shard: Shard, dali: str | None, folder: Path) -> None:
    """The shard's files are links of the former ones, never written to; only DALI's index may be a new one."""
    for ending in ENDINGS:
        target = folder / f"{shard.name}.{ending}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if ending == "idx" and dali is not None:
            unfinished(target).write_text(dali, encoding="ascii")
        else:
            _link((source / target.relative_to(folder)).resolve(), unfinished(target))
        finish(target)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # a copy would write into what it is linked to
    try:
        target.hardlink_to(source)
    except OSError:  # a link into another disk's cache, or a file system without hard links
        shutil.copyfile(source, target)


def is_live(stored: Stored) -> np.ndarray:
    """bool [num_stored]: no tombstones."""
    is_live, first = np.ones(len(stored.parts), bool), 0
    for shard in all_shards(stored.index.splits):
        is_live[first + np.array(shard.tombstones, np.int64)] = False
        first += shard.num_stored
    return is_live


def _columns(identities: np.ndarray, *names: str) -> list[np.ndarray]:
    return [identities[name][:, word] for name in names for word in (0, 1)]


def _pair(stored: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [num_wanted]: for each key the place of an equal one in `stored`, each place at most once, or UNKNOWN.

    A key is a value of each column; columns one by one take less memory than rows.
    """
    num_stored, num_wanted = len(stored[0]), len(wanted[0])
    both = [np.concatenate(columns) for columns in zip(stored, wanted, strict=True)]
    order = np.lexsort(both)  # stable: of equal keys the stored ones come first
    is_first = np.zeros(len(order), bool)
    is_first[:1] = True
    for column in both:
        in_order = column[order]
        is_first[1:] |= in_order[1:] != in_order[:-1]
    del both
    firsts = np.flatnonzero(is_first)
    is_stored = order < num_stored
    num_stored_in_run = np.add.reduceat(is_stored, firsts, dtype=np.int64) if len(firsts) else firsts
    run = np.cumsum(is_first) - 1
    # In a run of s stored and then some wanted keys, the n-th wanted one takes the n-th stored.
    turn = np.arange(len(order)) - firsts[run] - num_stored_in_run[run]
    is_paired = ~is_stored & (turn < num_stored_in_run[run])
    pairs = np.full(num_wanted, UNKNOWN, np.int64)
    pairs[order[is_paired] - num_stored] = order[(firsts[run] + turn)[is_paired]]
    return pairs

"""index.json, and what other readers of the tars look for beside it.

`_info.json` is timm's and webdataset's, `sizes.json` (one a split) open_clip's; the shards' `.idx` files are DALI's.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.artifacts import SPLITS, Index, MadeWith, Shard, index_digest
from pipeline.sample_table import read_stored_table
from pipeline.sharding.labels import Labels
from pipeline.sharding.pack import ENDINGS
from pipeline.sharding.pixels import Pixels, image_extension
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.split import part_of, splits_of


def make_index(
    labels: Labels,
    shards: dict[str, list[Shard]],
    pixels: Pixels,
    metadata_columns: Sequence[str],
    num_records: int,
    num_rejects: int,
    made_with: dict[str, MadeWith],
    former: Index | None,
) -> Index:
    """`pixels` are those of the training split; `former` is the index of the set that this one grew from."""
    digest = index_digest(labels.classes, all_shards(shards))
    generation = 0 if former is None else former.generation + (digest != former.digest)
    return Index(
        classes=labels.classes,
        multi_label=labels.sets is not None,
        image_extension=image_extension(pixels.channels),
        num_channels=pixels.channels.number,
        pixel_dtype=pixels.channels.dtype,
        mean=pixels.mean,
        std=pixels.std,
        metadata_columns=list(metadata_columns),
        splits=shards,
        num_records=num_records,
        num_rejects=num_rejects,
        generation=generation,
        made_with=made_with,
        location=made_with["destination"],
        digest=digest,
    )


def all_shards(splits: dict[str, list[Shard]]) -> list[Shard]:
    """In the order of the digest."""
    return [shard for shards in splits.values() for shard in shards]


def by_split(shards: Sequence[Shard], fold: int | None) -> dict[str, list[Shard]]:
    """The shards of each split, sorted by part and, in it, in the order in which they were written."""
    parts = np.array([part_of(shard.name) for shard in shards], np.int8)
    splits = splits_of(parts, fold)
    order = np.argsort(parts, kind="stable").tolist()
    return {split: [shards[i] for i in order if splits[i] == code] for code, split in enumerate(SPLITS)}


def write_index(index: Index, folder: Path) -> None:
    """With its companions where the shards lie beside it; what else lies there, a killed run left, and it goes."""
    beside = all_shards(index.splits) if index.location is None else []
    _remove_all_but({f"{shard.name}.{ending}" for shard in beside for ending in ENDINGS}, folder)
    index.write(folder / "index.json")
    if index.location is None:
        _write_companions(index, folder)


def _remove_all_but(wanted: set[str], folder: Path) -> None:
    """`wanted` are relative to the folder, in folders of their own; what lies in it directly stays."""
    for path in folder.iterdir():
        if path.is_dir():
            for each in path.iterdir():
                if f"{path.name}/{each.name}" not in wanted:
                    each.unlink()
            if not any(path.iterdir()):
                path.rmdir()


def _write_companions(index: Index, folder: Path) -> None:
    """They say what a reader of the tars meets: tombstones are counted, and named where such a reader can skip them."""
    splits, sizes = {}, defaultdict(dict)
    for split, shards in index.splits.items():
        for shard in shards:
            path = folder / f"{shard.name}.tar"
            sizes[path.parent][path.name] = shard.num_stored
        if shards:
            splits[split] = {
                "name": split,
                "num_samples": sum(shard.num_stored for shard in shards),
                "filenames": [f"{shard.name}.tar" for shard in shards],
                "shard_lengths": [shard.num_stored for shard in shards],
                "removed_keys": _removed_keys(folder / "index.json", shards),
            }
    for of_folder, counts in sizes.items():
        _write_json(of_folder / "sizes.json", counts)
    _write_json(folder / "_info.json", {"name": "convoy", "splits": splits})


def _removed_keys(index_path: Path, shards: Sequence[Shard]) -> list[str]:
    tables = ((read_stored_table(index_path, shard), shard.tombstones) for shard in shards if shard.tombstones)
    return [f"{key:0{KEY_DIGITS}d}" for table, tombstones in tables for key in table["key"][tombstones]]


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="ascii")

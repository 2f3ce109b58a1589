"""index.json, and what other readers of the tars look for beside it.

`_info.json` is timm's and webdataset's, `sizes.json` (one a split) open_clip's; the shards' `.idx` files are DALI's.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts import Index, Shard, index_digest
from pipeline.sharding.encode import NUM_CHANNELS, ChannelSums
from pipeline.sharding.write import IMAGE_EXTENSION


def make_index(
    classes: Sequence[str],
    shards: dict[str, list[Shard]],
    sums: ChannelSums,
    metadata_columns: Sequence[str],
    num_records: int,
    num_rejects: int,
) -> Index:
    """`sums` are those of the training split."""
    mean, std = sums.mean_and_std()
    return Index(
        classes=list(classes),
        image_extension=IMAGE_EXTENSION,
        num_channels=NUM_CHANNELS,
        mean=mean,
        std=std,
        metadata_columns=list(metadata_columns),
        splits=shards,
        num_records=num_records,
        num_rejects=num_rejects,
        digest=index_digest(classes, all_shards(shards)),
    )


def all_shards(splits: dict[str, list[Shard]]) -> list[Shard]:
    """In the order of the digest."""
    return [shard for shards in splits.values() for shard in shards]


def write_companions(index: Index, folder: Path) -> None:
    splits = {}
    for split, shards in index.splits.items():
        if not shards:
            continue
        splits[split] = {
            "name": split,
            "num_samples": index.num_samples(split),
            "filenames": [f"{shard.name}.tar" for shard in shards],
            "shard_lengths": [shard.num_samples for shard in shards],
        }
        sizes = {f"{Path(shard.name).name}.tar": shard.num_samples for shard in shards}
        _write_json(folder / split / "sizes.json", sizes)
    _write_json(folder / "_info.json", {"name": "convoy", "splits": splits})


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="ascii")

"""`convoy compact`: the samples of a grown data/shards in fewer, full tars, without tombstones."""

from pipeline import params
from pipeline.stages import layout
from pipeline.wording import counted, size_text


def compact(dry_run: bool) -> None:
    from rich.console import Console

    from pipeline.sharding.compact import compact_shard_set, find_savings
    from pipeline.stages.progress import progress
    from pipeline.stages.publish import publishing

    console = Console(highlight=False, soft_wrap=True)
    savings = find_savings(layout.INDEX)
    if savings.is_nothing:
        console.print(
            f"{layout.SHARDS} has nothing to compact: none of its {savings.num_shards:,} shards holds tombstones, and "
            "fewer cannot hold its samples"
        )
        return
    console.print(
        f"[bold]{counted(savings.num_tombstones, 'tombstone')}[/] of {size_text(savings.num_bytes)}; "
        f"{counted(savings.num_shards, 'shard')} can be {savings.num_shards_after:,}"
    )
    if dry_run:
        return
    num_workers = params.read(layout.PARAMS, ["shards"])["shards"].num_workers
    with publishing(layout.SHARDS) as (folder,):
        folder.mkdir()
        index = compact_shard_set(layout.INDEX, folder, num_workers, progress)
    num_bytes = sum(shard.num_bytes for shards in index.splits.values() for shard in shards)
    console.print(
        f"compacted to {size_text(num_bytes)}, {index.digest[:12]}; `convoy repro` tells DVC, and trains on it anew"
    )

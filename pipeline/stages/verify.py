"""`convoy verify`: every byte of data/shards against its index."""

from pipeline.stages import layout


def verify() -> None:
    from rich import print as show

    from pipeline.artifacts import SPLITS, Index
    from pipeline.loading.shelf import fetched_anew
    from pipeline.sharding.verify import verify_shard_set
    from pipeline.stages.progress import progress

    num_samples = sum(map(Index.read(layout.INDEX, made_by="shard").num_samples, SPLITS))
    with progress("verifying", num_samples, "samples") as advance:
        index = verify_shard_set(layout.INDEX, advance, fetched_anew)
    num_shards = sum(map(len, index.splits.values()))
    num_mb = sum(shard.num_bytes for shards in index.splits.values() for shard in shards) / 1e6
    show(f"[bold]whole[/]: {num_samples:,} samples in {num_shards} shards, {num_mb:,.1f} MB, {index.digest[:12]}")

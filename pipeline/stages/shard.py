"""Stage shard: splits the records, decodes each image once, writes WebDataset tars with their index and audit."""

import shutil

from pipeline import params
from pipeline.stages import layout


def shard(data: params.Data, split: params.Split, shards: params.Shards, audit: params.Audit) -> None:
    from rich import print as show

    from pipeline.sharding.audit import too_many_rejects
    from pipeline.sharding.build import ShardForm, SplitRule, build_shard_set
    from pipeline.sharding.manifest import read_manifest
    from pipeline.sharding.scan import image_root
    from pipeline.stages.progress import progress
    from pipeline.stages.publish import publishing

    manifest = read_manifest(layout.MANIFEST)
    with publishing(layout.SHARDS, layout.AUDIT, layout.REJECTS) as (folder, audit_path, rejects_path):
        folder.mkdir()
        built = build_shard_set(
            folder,
            manifest,
            layout.DEMO if data.source == "demo" else image_root(data.source),
            SplitRule(split.validation_fraction, split.test_fraction, split.seed),
            ShardForm(shards.short_side_px, shards.jpeg_quality, shards.samples_per_shard),
            shards.num_workers,
            audit.max_rejected_fraction,
            progress,
        )
        built.audit.write(audit_path)
        lines = "".join(reject.model_dump_json() + "\n" for reject in built.rejects)
        rejects_path.write_text(lines, encoding="utf-8")
        if built.index is None:
            # The old shards stay, if there are any; the list of the rejects is published for the user to look at.
            shutil.rmtree(folder)
    if built.index is None:
        raise too_many_rejects(built.rejects, manifest.num_rows, audit.max_rejected_fraction, str(layout.REJECTS))
    by_split = ", ".join(f"{count:,} {name}" for name, count in built.audit.samples_by_split.items())
    show(f"[bold]{built.audit.num_samples:,} samples[/] ({by_split}), {len(built.rejects):,} rejects")
    found = built.audit
    for name in ("duplicates", "contradictory_labels", "duplicates_across_splits"):
        finding = getattr(found, name)
        if finding.num_groups:
            show(f"{name}: {finding.num_images:,} images in {finding.num_groups:,} groups, see {layout.AUDIT}")

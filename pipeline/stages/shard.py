"""Stage shard: splits the records, decodes each image once, writes WebDataset tars with their index and audit."""

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Scan
from pipeline.errors import ArtifactError, LockedError
from pipeline.stages import layout
from pipeline.stages.home import located
from pipeline.stages.publish import lock, lock_of
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.sharding.build import Built


def shard(
    data: params.Data, split: params.Split, shards: params.Shards, audit: params.Audit, cluster: params.Cluster
) -> None:
    from pipeline.stages.workers import get_ready, open_workers

    get_ready(shards, cluster)
    from pipeline.artifacts import file_sha256
    from pipeline.sharding.audit import AuditRule, refusal
    from pipeline.sharding.build import ShardForm, SplitRule, build_shard_set
    from pipeline.sharding.manifest import Manifest
    from pipeline.sharding.resume import open_work
    from pipeline.sharding.scan import image_root
    from pipeline.stages.progress import progress
    from pipeline.stages.publish import publishing

    audit_rule = AuditRule(
        audit.max_rejected_fraction,
        audit.near_duplicate_bits,
        audit.tiny_below_px,
        audit.dark_below,
        audit.min_training_samples,
        audit.policies,
    )
    split_rule = SplitRule(
        split.validation_fraction,
        split.test_fraction,
        split.seed,
        split.near_duplicates_together,
        split.folds,
        split.fold,
    )
    form = ShardForm(shards.short_side_px, shards.jpeg_quality, shards.samples_per_shard, shards.destination)
    manifest = Manifest(layout.MANIFEST)
    _check_source(data)
    root = layout.DEMO if data.source == "demo" else image_root(located(data.source))
    with publishing(layout.SHARDS, layout.AUDIT, layout.REJECTS) as (folder, audit_path, rejects_path):
        folder.mkdir()
        decides = (file_sha256(layout.MANIFEST), root, shards.short_side_px, shards.jpeg_quality)
        work = open_work(layout.SHARDS_WORK, *decides)
        with open_workers(shards, cluster, work, manifest, root) as workers:
            built = build_shard_set(
                folder,
                work,
                manifest,
                root,
                split_rule,
                form,
                audit_rule,
                workers,
                progress,
                former=layout.INDEX.absolute(),
            )
        built.audit.write(audit_path)
        lines = "".join(reject.model_dump_json() + "\n" for reject in built.rejects)
        rejects_path.write_text(lines, encoding="utf-8")
        if built.index is None:
            # The old shards stay, if there are any; what was found is published for the user to look at.
            shutil.rmtree(folder)
    if built.index is None:
        raise refusal(built.audit, built.rejects, audit.max_rejected_fraction, str(layout.AUDIT), str(layout.REJECTS))
    _remove_work()
    _tell(built)


def _remove_work() -> None:
    """What was made in it is published. A `convoy shard` that began since then has taken it over, and removes it."""
    with suppress(LockedError), lock(lock_of(layout.SHARDS)):
        if layout.SHARDS_WORK.exists():
            shutil.rmtree(layout.SHARDS_WORK)


def _check_source(data: params.Data) -> None:
    """Raises ArtifactError for a manifest of another source, of which no image would be found."""
    from pipeline.sharding.demo import RECORDS
    from pipeline.stores import without_secrets

    listed = Scan.read(layout.SCAN, made_by="scan").source
    if listed != (str(layout.DEMO / RECORDS) if data.source == "demo" else data.source):
        raise ArtifactError(
            f"{layout.MANIFEST} lists {without_secrets(listed)}, and data.source is {without_secrets(data.source)}; "
            "run `convoy scan` first (or `dvc repro`)."
        )


def _tell(built: "Built") -> None:
    from rich.console import Console
    from rich.markup import escape

    from pipeline.sharding.audit import warnings

    by_split = ", ".join(f"{count:,} {name}" for name, count in built.audit.samples_by_split.items())
    console = Console(highlight=False, soft_wrap=True)
    num_samples, num_rejects = counted(built.audit.num_samples, "sample"), counted(len(built.rejects), "reject")
    console.print(f"[bold]{num_samples}[/] ({by_split}), {num_rejects}")
    if built.rejects:
        first = built.rejects[0]
        console.print(f"rejects: such as {escape(f'{first.path} ({first.reason})')}; see {layout.REJECTS}")
    if built.why_anew:
        console.print(f"all shards were written anew: {escape(built.why_anew)}")
    elif built.index.generation:
        num_removed = sum(len(shard.tombstones) for shards in built.index.splits.values() for shard in shards)
        console.print(
            f"generation {built.index.generation}: {counted(built.num_new, 'sample')} written, the others stay"
            + (
                f"; the tars still hold {counted(num_removed, 'removed image')}, which other readers meet, until "
                "`convoy compact`"
                if num_removed
                else ""
            )
        )
    for line in warnings(built.audit):
        console.print(f"{escape(line)}; see {layout.AUDIT}")

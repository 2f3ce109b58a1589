"""Stage scan: lists the labelled images into data/manifest.parquet and counts them in data/scan.json.

Always runs; what it leaves is identical as long as no image is added, removed or changed.
"""

from pipeline import params
from pipeline.stages import layout
from pipeline.stages.home import located
from pipeline.wording import counted, size_text


def scan(data: params.Data, demo: params.Demo) -> None:
    from rich import print as show

    from pipeline.sharding.demo import RECORDS
    from pipeline.sharding.scan import scan_source
    from pipeline.sharding.tables import TableColumns
    from pipeline.stages.progress import progress
    from pipeline.stages.publish import publishing

    source = located(data.source)
    columns = TableColumns(
        data.image_column,
        data.label_column,
        data.split_column,
        data.group_column,
        tuple(data.metadata_columns),
        data.label_separator,
    )
    if source == "demo":
        _draw_demo(demo)
        source, columns = str(layout.DEMO / RECORDS), TableColumns("image", "label", None, None, ("difficulty",))
    with publishing(layout.MANIFEST, layout.SCAN) as (manifest_path, counts_path):
        with progress("scanning") as advance:
            counts = scan_source(source, columns, manifest_path, advance)
        if data.source != "demo":
            counts = counts.model_copy(update={"source": data.source})
        counts.write(counts_path)
    given = ", ".join(f"{count:,} {split}" for split, count in counts.split_counts.items()) or "to be split by hash"
    show(
        f"[bold]{counted(counts.num_records, 'image')}[/] of {counted(len(counts.class_counts), 'class')}, "
        f"{size_text(counts.num_bytes)} ({given})"
    )
    if counts.multi_label:
        show(f"multi-label: an image has any number of classes; {counts.num_without_class:,} have none")
    if counts.ignored:
        show("ignored: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.ignored.items()))


def _draw_demo(demo: params.Demo) -> None:
    from pipeline.sharding.demo import has_demo_set, write_demo_set
    from pipeline.stages.publish import publishing

    if not has_demo_set(layout.DEMO, demo.images_per_class, demo.seed):
        with publishing(layout.DEMO) as [folder]:
            write_demo_set(folder, demo.images_per_class, demo.seed)

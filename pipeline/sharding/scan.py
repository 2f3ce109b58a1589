"""A data source -> its manifest: which images with which labels there are. No image is opened."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import Scan
from pipeline.errors import SourceError
from pipeline.sharding.folders import find_in_folders
from pipeline.sharding.manifest import collect_manifest
from pipeline.sharding.tables import TABLE_EXTENSIONS, TableColumns, find_in_table


def scan_source(source: str, columns: TableColumns, advance: Callable[[int], None]) -> tuple[pa.Table, Scan]:
    """The manifest, sorted by path, and its counts. `columns` matter where the source is a table.

    Raises SourceError for a source that nothing can be trained on.
    """
    path, ignored = _existing(source), Counter()
    records = find_in_folders(source, ignored, advance) if path.is_dir() else find_in_table(path, columns, advance)
    manifest = collect_manifest(records)
    counts = Scan(
        source=source,
        num_records=manifest.num_rows,
        num_bytes=pc.sum(manifest["num_bytes"]).as_py() or 0,
        class_counts=_counts(manifest["class_name"]),
        split_counts=_counts(manifest["split"].drop_null()),
        ignored={reason: count for reason, count in sorted(ignored.items()) if count},
    )
    _check(counts)
    return manifest, counts


def image_root(source: str) -> Path:
    """What the manifest's paths are relative to."""
    path = Path(source)
    return path if path.is_dir() else path.parent


def _existing(source: str) -> Path:
    path = Path(source)
    if "://" in source:
        raise SourceError(f"data.source={source} is an address; copy the images to a local folder and name that.")
    if not path.exists():
        raise SourceError(
            f"data.source={source} does not exist (looked at {path.absolute()}); give a folder class/image, a table "
            f"({', '.join(TABLE_EXTENSIONS)}), or demo."
        )
    if not path.is_dir() and path.suffix not in TABLE_EXTENSIONS:
        raise SourceError(
            f"data.source={source} is neither a folder nor a table ({', '.join(TABLE_EXTENSIONS)}); unpack archives "
            "first."
        )
    return path


def _check(counts: Scan) -> None:
    if not counts.num_records:
        ignored = ", ".join(f"{count} {reason}" for reason, count in counts.ignored.items())
        raise SourceError(
            f"data.source={counts.source} holds no images{f' (ignored: {ignored})' if ignored else ''}; put them into "
            "one folder a class."
        )
    if len(counts.class_counts) == 1:
        raise SourceError(
            f"data.source={counts.source} has one class only, {next(iter(counts.class_counts))!r}; a classifier needs "
            "at least two: add a folder (or a label) for another class."
        )


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in sorted(pc.value_counts(column).to_pylist(), key=_value)}


def _value(item: dict) -> str:
    return item["values"]

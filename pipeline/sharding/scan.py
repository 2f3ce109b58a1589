"""A data source -> its manifest: which images with which labels there are. No image is opened."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import stores
from pipeline.artifacts import Scan
from pipeline.errors import SourceError
from pipeline.sharding.folders import find_in_folders
from pipeline.sharding.manifest import Manifest, Record, class_names, write_manifest
from pipeline.sharding.members import find_in_tars
from pipeline.sharding.objects import find_in_store
from pipeline.sharding.reading import TAR_ROOT
from pipeline.sharding.tables import TABLE_EXTENSIONS, TableColumns, TableFile, find_in_table
from pipeline.sharding.tarsets import find_tar_set
from pipeline.stores import without_secrets


def scan_source(source: str, columns: TableColumns, path: Path, advance: Callable[[int], None]) -> Scan:
    """Leaves the manifest in `path` and returns its counts. `columns` matter where the source is a table.

    Raises SourceError for a source that nothing can be trained on.
    """
    ignored = Counter()
    write_manifest(_of_one_kind(source, _records(source, columns, ignored, advance)), path)
    manifest = Manifest(path)
    num_bytes, by_label, by_split = 0, Counter(), Counter()
    for batch in manifest.batches("num_bytes", manifest.label_column, "split"):
        num_bytes += pc.sum(batch["num_bytes"]).as_py()
        by_label.update(_counts(batch[manifest.label_column]))
        by_split.update(_counts(batch["split"].drop_null()))
    by_class = _by_class(by_label) if manifest.is_multi_label else by_label
    counts = Scan(
        source=source,
        num_records=manifest.num_rows,
        num_bytes=num_bytes,
        class_counts=dict(sorted(by_class.items())),
        split_counts=dict(sorted(by_split.items())),
        ignored={reason: count for reason, count in sorted(ignored.items()) if count},
        multi_label=manifest.is_multi_label,
        num_without_class=by_label[class_names([])],
    )
    _check(counts)
    return counts


def image_root(source: str) -> str:
    """What the manifest's paths are relative to, as `reading.read_image` takes it."""
    if _is_table(source):
        return stores.parent(source) if stores.is_address(source) else str(Path(source).parent)
    tar_set = find_tar_set(source)
    return source.rstrip("/") if tar_set is None else TAR_ROOT + tar_set.root


def _records(source: str, columns: TableColumns, ignored: Counter, advance: Callable[[int], None]) -> Iterator[Record]:
    _check_kind(source)
    if _is_table(source):
        with _local_table(source) as table:
            yield from find_in_table(table, columns, advance)
        return
    tar_set = find_tar_set(source)
    if tar_set is not None:
        yield from find_in_tars(tar_set.tars, columns, ignored, advance)
    elif stores.is_address(source):
        yield from find_in_store(source.rstrip("/"), ignored, advance)
    else:
        yield from find_in_folders(source, ignored, advance)


def _of_one_kind(source: str, records: Iterator[Record]) -> Iterator[Record]:
    """The same records. Raises SourceError where one has a class and another a list of them."""
    first = None
    for record in records:
        first = first or record
        if type(record.class_name) is not type(first.class_name):
            kinds = ["a list of classes" if isinstance(each.class_name, tuple) else "one" for each in (record, first)]
            shown, this, other = map(without_secrets, (source, record.path, first.path))
            raise SourceError(
                f"data.source={shown} labels {this} with {kinds[0]} and {other} with {kinds[1]}; give every image one "
                "class, or every image a list, which may have one member or none."
            )
        yield record


def _by_class(by_label: Counter) -> Counter:
    """Records of each class, from those of each list of classes."""
    by_class = Counter()
    for text, count in by_label.items():
        by_class.update(dict.fromkeys(json.loads(text), count))
    return by_class


@contextmanager
def _local_table(source: str) -> Iterator[TableFile]:
    """Tables are read by libraries that want a file."""
    if not stores.is_address(source):
        yield TableFile(Path(source), source)
        return
    try:
        with stores.open_object(source) as there, NamedTemporaryFile(suffix=Path(source).suffix) as here:
            shutil.copyfileobj(there, here, 2**20)
            here.flush()
            yield TableFile(Path(here.name), source)
    except FileNotFoundError as exc:
        raise SourceError(f"data.source={without_secrets(source)} does not exist; check the address.") from exc


def _is_table(source: str) -> bool:
    return source.endswith(TABLE_EXTENSIONS) and not Path(source).is_dir()


def _check_kind(source: str) -> None:
    path = Path(source)
    if source.startswith(("http://", "https://")) and not source.endswith((".tar", *TABLE_EXTENSIONS)):
        raise SourceError(
            f"data.source={without_secrets(source)} is an address on the web, where folders cannot be listed; give a "
            f"table ({', '.join(TABLE_EXTENSIONS)}) of the images' addresses, or a .tar."
        )
    if stores.is_address(source) or path.is_dir() or source.endswith(".tar"):
        return
    kinds = f"a folder class/image, a table ({', '.join(TABLE_EXTENSIONS)}), WebDataset tars, or demo"
    if not path.exists():
        raise SourceError(f"data.source={source} does not exist (looked at {path.absolute()}); give {kinds}.")
    if not _is_table(source):
        raise SourceError(
            f"data.source={source} is none of what is read; give {kinds}, and unpack other archives first."
        )


def _check(counts: Scan) -> None:
    shown = without_secrets(counts.source)
    if not counts.num_records:
        ignored = ", ".join(f"{count} {reason}" for reason, count in counts.ignored.items())
        raise SourceError(
            f"data.source={shown} holds no images{f' (ignored: {ignored})' if ignored else ''}; put them into "
            "one folder a class."
        )
    if not counts.class_counts:
        raise SourceError(
            f"data.source={shown} gives none of its {counts.num_records} images a class; check "
            "data.label_column and data.label_separator."
        )
    if len(counts.class_counts) == 1 and not counts.multi_label:
        raise SourceError(
            f"data.source={shown} has one class only, {next(iter(counts.class_counts))!r}; a classifier needs "
            "at least two: add a folder (or a label) for another class."
        )


def _counts(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}

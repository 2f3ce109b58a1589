"""manifest.parquet: a row per record, sorted by path, written by scan and read by shard.

It is never in memory as a whole: records are sorted in runs that wait in a file and are merged one range of paths at
a time, and who reads the manifest takes it batch by batch.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice, pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.artifacts import CLASS_NAMES, MANIFEST_COLUMNS
from pipeline.errors import ArtifactError

CLASS_NAME = "class_name"
MULTI_LABEL_COLUMNS = tuple(CLASS_NAMES if name == CLASS_NAME else name for name in MANIFEST_COLUMNS)
SCHEMA, MULTI_LABEL_SCHEMA = (
    pa.schema([(name, pa.int64() if name == "num_bytes" else pa.string()) for name in columns])
    for columns in (MANIFEST_COLUMNS, MULTI_LABEL_COLUMNS)
)
ROWS_PER_BLOCK = 1024
"""What is read at once, of a run and of the manifest."""

BLOCKS_PER_RELEASE = 16
ROWS_PER_RUN = ROWS_PER_GROUP = 16 * ROWS_PER_BLOCK
"""What is sorted at once, and what is compressed at once."""


class Record(NamedTuple):
    """One raw image with its label, as found: a row of MANIFEST_COLUMNS."""

    path: str
    class_name: str | tuple[str, ...]
    """Of a multi-label source its classes, any number of them."""
    split: str | None
    group: str | None
    num_bytes: int
    stamp: str
    metadata: str


class Manifest:
    """A manifest on disk."""

    def __init__(self, path: Path):
        """Raises ArtifactError when the file is missing, damaged or of another kind; so does reading it."""
        self._path = path
        with self._open() as file:
            names = file.schema_arrow.names
            self.num_rows = file.metadata.num_rows
        self.is_multi_label = CLASS_NAMES in names
        self.label_column = CLASS_NAMES if self.is_multi_label else CLASS_NAME
        if names not in (list(MANIFEST_COLUMNS), list(MULTI_LABEL_COLUMNS)):
            raise ArtifactError(
                f"{path} has the columns {', '.join(names)}, not {', '.join(MANIFEST_COLUMNS)}; "
                "make it again with `convoy scan`."
            )

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Some of its columns, in the manifest's order."""
        with self._open() as file:
            # Without threads: each would keep what it read with, out of reach for a release from here.
            batches = file.iter_batches(ROWS_PER_BLOCK, columns=list(columns), use_threads=False)
            for number, batch in enumerate(batches):
                if number % BLOCKS_PER_RELEASE == 0:
                    pa.default_memory_pool().release_unused()  # it would go on growing to the manifest's end
                yield batch

    def values(self, column: str) -> Iterator[str | int | None]:
        """One of its columns, value by value."""
        for batch in self.batches(column):
            yield from batch[column].to_pylist()

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self._path) as file:
                yield file
        except FileNotFoundError as exc:
            raise ArtifactError(f"{self._path} does not exist; run `convoy scan` first (or `dvc repro`).") from exc
        except (pa.ArrowException, OSError) as exc:
            raise ArtifactError(f"{self._path} cannot be read ({exc}); make it again with `convoy scan`.") from exc


def write_manifest(records: Iterable[Record], path: Path) -> None:
    """The same bytes for the same records, whatever their order. The first one says whether all are multi-label."""
    records = iter(records)
    first = list(islice(records, 1))
    schema = MULTI_LABEL_SCHEMA if first and isinstance(first[0].class_name, tuple) else SCHEMA
    with TemporaryFile(dir=path.parent) as file, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        runs = [_write_run(run, file) for run in _runs(chain(first, records), schema)]
        waiting = schema.empty_table()
        for of_range in _merged(runs, file, schema):
            waiting = pa.concat_tables([waiting, of_range])
            while waiting.num_rows >= ROWS_PER_GROUP:
                writer.write_table(waiting.slice(0, ROWS_PER_GROUP).combine_chunks(), ROWS_PER_GROUP)
                waiting = waiting.slice(ROWS_PER_GROUP)
                pa.default_memory_pool().release_unused()
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks(), ROWS_PER_GROUP)


class _Block(NamedTuple):
    """Rows of a run in the file of runs."""

    first_path: str
    offset: int
    num_bytes: int


def _runs(records: Iterator[Record], schema: pa.Schema) -> Iterator[pa.Table]:
    """Sorted."""
    batches = []
    while rows := list(islice(records, ROWS_PER_BLOCK)):
        batches.append(pa.RecordBatch.from_arrays(_columns(rows, schema), schema=schema))
        if len(batches) * ROWS_PER_BLOCK == ROWS_PER_RUN:
            yield _in_order(batches, schema)
            batches = []
    if batches:
        yield _in_order(batches, schema)


def _in_order(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """By path, then by label."""
    return pa.Table.from_batches(batches, schema).sort_by([(schema.names[place], "ascending") for place in (0, 1)])


def _columns(rows: list[Record], schema: pa.Schema) -> list[pa.Array]:
    if schema is MULTI_LABEL_SCHEMA:
        rows = [row._replace(class_name=class_names(row.class_name)) for row in rows]
    return [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]


def class_names(names: Iterable[str]) -> str:
    """A record's classes as CLASS_NAMES has them."""
    return json.dumps(sorted(set(names)), ensure_ascii=False)


def _write_run(run: pa.Table, file: IO[bytes]) -> list[_Block]:
    blocks = []
    for batch in run.combine_chunks().to_batches(ROWS_PER_BLOCK):
        data = batch.serialize()
        blocks.append(_Block(batch["path"][0].as_py(), file.tell(), data.size))
        file.write(data)
    return blocks


def _merged(runs: list[list[_Block]], file: IO[bytes], schema: pa.Schema) -> Iterator[pa.Table]:
    """All rows, in order: the ranges lie between first paths of blocks, so that each is about as large as a run."""
    firsts = sorted(block.first_path for run in runs for block in run)
    edges = [*firsts[:: ROWS_PER_RUN // ROWS_PER_BLOCK], None]
    for low, high in pairwise(edges):
        parts = [part for run in runs for part in _between(run, low, high, file, schema)]
        yield _in_order(parts, schema)


def _between(
    run: list[_Block], low: str, high: str | None, file: IO[bytes], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of a run whose paths are at least `low` and below `high`; null for no limit."""
    for block, following in zip(run, [*run[1:], None], strict=True):
        if (high is not None and block.first_path >= high) or (following is not None and following.first_path < low):
            continue
        file.seek(block.offset)
        rows = pa.ipc.read_record_batch(pa.py_buffer(file.read(block.num_bytes)), schema)
        is_inside = pc.greater_equal(rows["path"], low)
        if high is not None:
            is_inside = pc.and_(is_inside, pc.less(rows["path"], high))
        yield rows.filter(is_inside)

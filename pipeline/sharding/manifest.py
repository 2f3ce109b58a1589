"""manifest.parquet: a row per record, written by scan and read by shard.

Rows are collected in batches of columns: a million records take some hundred bytes each, not a Python object each.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.artifacts import MANIFEST_COLUMNS
from pipeline.errors import ArtifactError

SCHEMA = pa.schema([(name, pa.int64() if name == "num_bytes" else pa.string()) for name in MANIFEST_COLUMNS])
ROWS_PER_BATCH = 65_536


class Record(NamedTuple):
    """One raw image with its label, as found: a row of MANIFEST_COLUMNS."""

    path: str
    class_name: str
    split: str | None
    group: str | None
    num_bytes: int
    stamp: str
    metadata: str


def collect_manifest(records: Iterable[Record]) -> pa.Table:
    """The records as a table, sorted by path."""
    batches = [pa.RecordBatch.from_arrays(_columns(rows), schema=SCHEMA) for rows in _batched(records)]
    return pa.Table.from_batches(batches, SCHEMA).sort_by([("path", "ascending"), ("class_name", "ascending")])


def write_manifest(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def read_manifest(path: Path) -> pa.Table:
    """Raises ArtifactError when the file is missing, damaged or of another kind."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} does not exist; run `convoy scan` first (or `dvc repro`).") from exc
    except (pa.ArrowException, OSError) as exc:
        raise ArtifactError(f"{path} cannot be read ({exc}); make it again with `convoy scan`.") from exc
    if table.schema.names != list(MANIFEST_COLUMNS):
        raise ArtifactError(
            f"{path} has the columns {', '.join(table.schema.names)}, not {', '.join(MANIFEST_COLUMNS)}; "
            "make it again with `convoy scan`."
        )
    return table


def _batched(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while rows := list(islice(iterator, ROWS_PER_BATCH)):
        yield rows


def _columns(rows: list[Record]) -> list[pa.Array]:
    return [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]

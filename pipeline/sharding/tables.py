"""Labelled images listed in a table: .csv, .tsv, .parquet or .jsonl with an image and a label column.

Paths are absolute, relative to the table, or addresses (`s3://`). Every value of a .csv or .tsv is text: a label 007
stays 007. A label that is a list, or a text that is to be cut at a separator, is any number of classes.
"""
# A million rows: no Path object for each.
# ruff: noqa: PTH116, PTH118

import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import stores
from pipeline.artifacts import SPLITS
from pipeline.errors import SourceError
from pipeline.path_names import escape_path
from pipeline.sharding.manifest import Record
from pipeline.stores import Object

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet", ".jsonl")
SPLIT_OF_VALUE = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
ROWS_PER_REPORT = 1000


class TableColumns(NamedTuple):
    """Which column says what; None where the table does not say it."""

    image: str
    label: str
    split: str | None
    group: str | None
    metadata: tuple[str, ...]
    separator: str | None = None
    """Between the classes in a label's text; None where a text is one class."""


class TableFile(NamedTuple):
    """A table, and what it is found from: its address where the file is a copy of it."""

    path: Path
    source: str

    def __str__(self) -> str:
        """How it is called in messages."""
        return stores.without_secrets(self.source)


def find_in_table(table: TableFile, columns: TableColumns, advance: Callable[[int], None]) -> Iterator[Record]:
    """The table's records, in its order.

    Raises SourceError naming the row (the first one is row 1) and the column.
    """
    images = _Images(stores.parent(table.source) if stores.is_address(table.source) else str(table.path.parent))
    for number, row in enumerate(_rows(table, columns), start=1):
        where = f"{table}, row {number}"
        label = _label(row[columns.label], columns.separator, f"{where}, column {columns.label}")
        # Names of files may be any bytes, which Python writes as halves of surrogate pairs.
        image = _text(row[columns.image], f"{where}, column {columns.image}", "surrogateescape")
        found = images.look_at(image, where)
        if number % ROWS_PER_REPORT == 0:
            advance(ROWS_PER_REPORT)
        yield Record(
            path=escape_path(os.fsencode(image)),
            class_name=label,
            split=_split(row[columns.split], where) if columns.split else None,
            group=_group(row[columns.group], f"{where}, column {columns.group}") if columns.group else None,
            num_bytes=found.num_bytes,
            stamp=found.stamp,
            metadata=json.dumps({name: plain(row[name]) for name in columns.metadata}, sort_keys=True),
        )


def _rows(table: TableFile, columns: TableColumns) -> Iterator[dict]:
    wanted = list(dict.fromkeys([columns.image, columns.label, *filter(None, columns[2:4]), *columns.metadata]))
    try:
        if table.path.suffix == ".jsonl":
            yield from _json_rows(table, wanted)
        elif table.path.suffix == ".parquet":
            with pq.ParquetFile(table.path) as file:
                _check_columns(table, file.schema_arrow.names, wanted)
                for batch in file.iter_batches(columns=wanted):
                    yield from batch.to_pylist()
        else:
            yield from _text_rows(table, wanted)
    except (pa.ArrowException, UnicodeDecodeError) as exc:
        raise SourceError(
            f"{table} cannot be read as {table.path.suffix[1:]}: {stores.without_secrets(str(exc))}; mend or export it "
            "again."
        ) from exc


def _text_rows(table: TableFile, wanted: list[str]) -> Iterator[dict]:
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if table.path.suffix == ".tsv" else ",", newlines_in_values=True)
    with pyarrow.csv.open_csv(table.path, parse_options=parse) as head:
        names = head.schema.names
    _check_columns(table, names, wanted)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
    )
    with pyarrow.csv.open_csv(table.path, parse_options=parse, convert_options=convert) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _json_rows(table: TableFile, wanted: list[str]) -> Iterator[dict]:
    rows_seen = False
    with table.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{table}, line {number},"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as exc:
                raise SourceError(
                    f"{where} cannot be read as JSON: {exc.msg} at character {exc.colno}; mend or export it again."
                ) from exc
            except ValueError as exc:
                raise SourceError(
                    f"{where} holds a whole number of more digits than Python reads; write it as text."
                ) from exc
            if not isinstance(row, dict):
                shown = stores.without_secrets(line.strip())[:80]
                raise SourceError(f"{where} is {shown!r}; every line must be a JSON object.")
            # A later row may leave out what is optional; a name that is wrong altogether is missing in the first.
            _check_columns(table, list(row), wanted[:2] if rows_seen else wanted)
            rows_seen = True
            yield {name: row.get(name) for name in wanted}


def _check_columns(table: TableFile, names: list[str], wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        found = stores.without_secrets(", ".join(map(repr, names)))  # without a head, they are the first row
        raise SourceError(
            f"{table} has no column {missing[0]!r}; it has {found}. Name the right one in the data section of "
            "params.yaml."
        )


def _text(value: object, where: str, errors: str = "strict") -> str:
    _check_one(value, where)
    text = text_of(value, where, errors)
    if text is None:
        raise SourceError(f"{where} is empty; fill it in or delete the row.")
    return text


def _label(value: object, separator: str | None, where: str) -> str | tuple[str, ...]:
    if isinstance(value, list):
        return tuple(_text(each, f"{where}, in {value!r},") for each in value)
    if separator is None:
        return _text(value, where)
    _check_one(value, where)
    parts = (part.strip() for part in (text_of(value, where) or "").split(separator))
    return tuple(part for part in parts if part)


def _check_one(value: object, where: str) -> None:
    if isinstance(value, list | dict):
        shown = stores.without_secrets(repr(value))
        raise SourceError(f"{where} holds {shown}; it must be one text or number: choose one.")


def text_of(value: object, where: str, errors: str = "strict") -> str | None:
    """A label or an identity as text, None for nothing. A whole number is the same however it is written, 7 or 7.0:
    libraries turn a column of them into fractions as soon as one is missing.

    Raises SourceError for half of a surrogate pair, which JSON can hold, unless `errors`, a handler of Python's for
    what cannot be encoded, lets it pass.
    """
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    text = "" if value is None else str(value)
    try:
        text.encode("utf-8", errors)
    except UnicodeEncodeError as exc:
        shown = stores.without_secrets(ascii(text))
        raise SourceError(
            f"{where} holds {shown}, where a character was cut in half and is no text; write it whole, or delete it."
        ) from exc
    return text if text.strip() else None


def _split(value: object, where: str) -> str | None:
    text = "" if value is None else str(value).strip().lower()
    if text and text not in SPLIT_OF_VALUE:
        raise SourceError(f"{where} has the split {value!r}; it must be {', '.join(SPLITS)} or empty.")
    return SPLIT_OF_VALUE.get(text)


def _group(value: object, where: str) -> str | None:
    _check_one(value, where)
    return text_of(value, where)


def plain(value: object) -> object:
    """A metadata value as JSON has it: dates and the like as text, not-a-number as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


class _Images:
    """The images that a table names: files, or objects of a store. A store's folder is listed once: asking for every
    object would take hours."""

    def __init__(self, root: str):
        self._root = root
        self._listed: dict[str, dict[str, Object]] = {}

    def look_at(self, image: str, where: str) -> Object:
        """Raises SourceError for what is not there."""
        if not stores.is_address(image) and not stores.is_address(self._root):
            return _status(self._root, image, where)
        address = stores.join(self._root, image)
        try:
            return stores.measure(address) if address.startswith(("http://", "https://")) else self._listed_at(address)
        except (KeyError, FileNotFoundError) as exc:
            raise SourceError(
                f"{where} names {stores.without_secrets(address)}, which does not exist; an image is an address or "
                "relative to the table. Mend it or delete the row."
            ) from exc

    def _listed_at(self, address: str) -> Object:
        folder, name = address.rsplit("/", 1)
        if not stores.is_address(folder):
            raise KeyError(address)  # a store's name and no object in it
        if folder not in self._listed:
            self._listed[folder] = {each.name: each for each in stores.list_folder(folder).objects}
        return self._listed[folder][name]


def _status(folder: str, image: str, where: str) -> Object:
    path = os.path.join(folder, image)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as exc:
        raise SourceError(
            f"{where} names {path}, which does not exist; paths are absolute or relative to the table. "
            "Mend the path or delete the row."
        ) from exc
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{where} names {path}, which is no regular file; mend the path.")
    return Object(image, status.st_size, str(status.st_mtime_ns))

"""Seconds and peak memory of scanning a long table, by format: a row names an image, a class, a group and a site.

Writes tables of so many rows over a thousand small files and scans each in a process of its own. Prints one JSON line.

    python benchmarks/tables.py [--rows 1000000] [--kinds csv tsv parquet jsonl]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from sharding_run import run_measured

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
KINDS = ("csv", "tsv", "parquet", "jsonl")
NUM_FILES, NUM_CLASSES, NUM_GROUPS = 1000, 100, 50_000
ROWS_AT_ONCE = 50_000


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        for number in range(NUM_FILES):
            (folder / f"{number:04d}.jpg").write_bytes(b"not opened by a scan")
        results = {}
        for kind in arguments.kinds:
            write_table(folder / f"table.{kind}", arguments.rows)
            results[kind] = run_measured([sys.executable, __file__, "--here", folder / f"table.{kind}"])
            (folder / f"table.{kind}").unlink()
    print(json.dumps({"benchmark": "tables", "cores": os.cpu_count(), "rows": arguments.rows, "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--here", type=Path)
    arguments = parser.parse_args()
    if arguments.here:
        _scan_here(arguments.here)
        sys.exit()
    return arguments


def write_table(path: Path, num_rows: int) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    parts = (_rows(range(first, min(first + ROWS_AT_ONCE, num_rows))) for first in range(0, num_rows, ROWS_AT_ONCE))
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for rows in parts:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        return
    schema = pa.schema({"image": pa.string(), "label": pa.string(), "patient": pa.int64(), "site": pa.string()})
    options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
    with (
        pq.ParquetWriter(path, schema)
        if path.suffix == ".parquet"
        else pyarrow.csv.CSVWriter(path, schema, write_options=options) as writer
    ):
        for rows in parts:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _rows(numbers: range) -> list[dict]:
    return [
        {
            "image": f"{number % NUM_FILES:04d}.jpg",
            "label": f"class {number * 7 % NUM_CLASSES}",
            "patient": number * 31 % NUM_GROUPS,
            "site": f"site {number % 5}",
        }
        for number in numbers
    ]


def _scan_here(table: Path) -> None:
    from pipeline.sharding.scan import scan_source
    from pipeline.sharding.tables import TableColumns

    columns, started = TableColumns("image", "label", None, "patient", ("site",)), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=table.parent) as folder:
        counts = scan_source(str(table), columns, Path(folder) / "manifest.parquet", lambda count: None)
    took = {"seconds": round(time.perf_counter() - started, 2), "cpu_seconds": round(time.process_time(), 2)}
    print(json.dumps(took | {"records": counts.num_records}))


if __name__ == "__main__":
    main()

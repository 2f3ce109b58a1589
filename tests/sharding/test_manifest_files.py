"""The manifest on disk: sorted, the same bytes for the same records, never in memory as a whole."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError
from pipeline.sharding import manifest
from pipeline.sharding.manifest import Manifest, Record, write_manifest

RECORDS = [
    Record(f"{n % 7}/{n}.jpg", str(n % 7), None, None, n, str(n), "{}") for n in range(70_000)
]  # more than a run


def rows_of(path: Path) -> list[Record]:
    batches = Manifest(path).batches(*Record._fields)
    return [Record(**row) for batch in batches for row in batch.to_pylist()]


def test_what_is_written_comes_back_sorted_by_path(tmp_path):
    path = tmp_path / "manifest.parquet"
    write_manifest(iter(RECORDS), path)
    assert Manifest(path).num_rows == len(RECORDS)
    assert rows_of(path) == sorted(RECORDS)
    assert list(Manifest(path).values("num_bytes")) == [record.num_bytes for record in sorted(RECORDS)]


def test_the_order_of_finding_does_not_matter(tmp_path):
    shuffled = random.Random(0).sample(RECORDS, len(RECORDS))
    for name, records in {"one": RECORDS, "back": reversed(RECORDS), "shuffled": shuffled}.items():
        write_manifest(records, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "back").read_bytes() == (tmp_path / "shuffled").read_bytes()
    with pq.ParquetFile(tmp_path / "one") as file:
        assert file.num_row_groups == 5


@given(st.lists(st.tuples(st.text("ab\u00e9\U0001f600/", max_size=3), st.sampled_from("xy")), max_size=60))
def test_any_paths_are_merged_from_any_runs(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("any") / "manifest.parquet"
    records = [Record(*row, None, None, number, "", "{}") for number, row in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"ROWS_PER_BLOCK": 2, "ROWS_PER_RUN": 6, "ROWS_PER_GROUP": 6}.items():
            patch.setattr(manifest, name, value)
        write_manifest(records, path)
        # What is named twice stays in the order in which it was found.
        assert rows_of(path) == sorted(records, key=lambda record: (record.path.encode(), record.class_name))


def test_ten_times_the_records_take_no_more_memory(tmp_path):
    """Arrow's; the records themselves come one by one."""
    usual, peaks = pa.default_memory_pool(), []
    for count in (30_000, 300_000):
        # Each run reaches over all paths.
        paths = (f"{number * 7919 % 2**20:07d}.jpg" for number in range(count))
        pool = pa.proxy_memory_pool(usual)
        pa.set_memory_pool(pool)
        try:
            write_manifest(
                (Record(path, "a", None, None, 1, "", "{}") for path in paths), tmp_path / "manifest.parquet"
            )
        finally:
            pa.set_memory_pool(usual)
        peaks.append(pool.max_memory())
    assert peaks[1] < 4 * peaks[0]


def test_no_records_are_an_empty_table(tmp_path):
    write_manifest([], tmp_path / "manifest.parquet")
    assert rows_of(tmp_path / "manifest.parquet") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"manifest.parquet does not exist; run `convoy scan` first"),
        (b"PAR1", r"manifest.parquet cannot be read \(.*\); make it again with `convoy scan`"),
        ({"path": ["a"]}, r"has the columns path, not path, class_name, .*; make it again with `convoy scan`"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "manifest.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        pq.write_table(pa.table(content), path)
    with pytest.raises(ArtifactError, match=message):
        Manifest(path)

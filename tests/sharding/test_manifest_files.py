import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ArtifactError
from pipeline.sharding.manifest import Record, collect_manifest, read_manifest, write_manifest

RECORDS = [
    Record(f"{n % 7}/{n}.jpg", str(n % 7), None, None, n, str(n), "{}") for n in range(70_000)
]  # more than a batch


def test_what_is_written_comes_back_sorted_by_path(tmp_path):
    write_manifest(collect_manifest(iter(RECORDS)), tmp_path / "manifest.parquet")
    rows = [Record(**row) for row in read_manifest(tmp_path / "manifest.parquet").to_pylist()]
    assert rows == sorted(RECORDS)


def test_the_order_of_finding_does_not_matter(tmp_path):
    write_manifest(collect_manifest(RECORDS), tmp_path / "one")
    write_manifest(collect_manifest(reversed(RECORDS)), tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_no_records_are_an_empty_table():
    assert collect_manifest([]).num_rows == 0


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
        read_manifest(path)

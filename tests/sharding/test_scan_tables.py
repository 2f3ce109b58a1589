"""Tables to manifests: the same records from each format, and one clear message for each mistake in a table."""

import csv
import json
import os
from pathlib import Path

import image_folders
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError
from pipeline.sharding.scan import image_root
from pipeline.sharding.tables import TableColumns

COLUMNS = TableColumns("image", "label", "split", "patient", ("site", "age"))
ROWS = [
    {"image": "images/1.jpg", "label": "007", "split": "train", "patient": "p1", "site": "north", "age": "41"},
    {"image": "images/2.jpg", "label": "8", "split": "val", "patient": "", "site": "a,b", "age": ""},
    {"image": "images/3 ä.jpg", "label": "007", "split": "", "patient": "p1", "site": 'say "x"', "age": "7"},
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for row in ROWS:
        (tmp_path / row["image"]).write_bytes(b"12345")
    return tmp_path


def write(folder: Path, kind: str, rows: list[dict]) -> str:
    path = folder / f"table.{kind}"
    if kind in ("csv", "tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return str(path)


def scan(source: str, columns: TableColumns = COLUMNS):
    return image_folders.scan(source, columns)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
def test_each_format_gives_the_same_records(folder, kind):
    manifest, counts = scan(write(folder, kind, ROWS))
    assert manifest["path"].to_pylist() == ["images/1.jpg", "images/2.jpg", "images/3 ä.jpg"]
    assert manifest["class_name"].to_pylist() == ["007", "8", "007"]
    assert manifest["split"].to_pylist() == ["train", "validation", None]
    assert manifest["group"].to_pylist() == ["p1", None, "p1"]
    assert json.loads(manifest["metadata"][2].as_py()) == {"age": "7", "site": 'say "x"'}
    assert manifest["num_bytes"].to_pylist() == [5, 5, 5]
    assert counts.class_counts == {"007": 2, "8": 1}
    assert counts.split_counts == {"train": 1, "validation": 1}
    assert image_root(counts.source) == str(folder)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_numbers_as_labels_and_metadata(folder, kind):
    rows = [{"image": row["image"], "label": n % 2, "age": n, "ratio": n / 2} for n, row in enumerate(ROWS)]
    manifest, _ = scan(write(folder, kind, rows), TableColumns("image", "label", None, None, ("age", "ratio")))
    assert manifest["class_name"].to_pylist() == ["0", "1", "0"]
    assert json.loads(manifest["metadata"][1].as_py()) == {"age": 1, "ratio": 0.5}


GROUPED = TableColumns("image", "label", None, "patient", ())


def test_identities_in_json_lines_are_the_same_however_they_are_written(folder):
    lines = ['7, "patient": 12345678901234567890123', '7.0, "patient": 3.0', '"7", "patient": 3']
    lines = [f'{{"image": "{row["image"]}", "label": {rest}}}' for row, rest in zip(ROWS, lines, strict=True)]
    (folder / "table.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SourceError, match="has one class only, '7'"):
        scan(str(folder / "table.jsonl"), GROUPED)
    lines[0] = lines[0].replace('"label": 7', '"label": 8')
    (folder / "table.jsonl").write_text("\n".join(lines), encoding="utf-8")
    manifest, counts = scan(str(folder / "table.jsonl"), GROUPED)
    assert manifest["group"].to_pylist() == ["12345678901234567890123", "3", "3"]
    assert counts.class_counts == {"7": 2, "8": 1}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_identity_that_became_not_a_number_is_no_group(folder, kind):
    groups = [3.0, float("nan"), float("nan")]
    rows = [{"image": row["image"], "label": row["label"], "patient": g} for row, g in zip(ROWS, groups, strict=True)]
    manifest, _ = scan(write(folder, kind, rows), GROUPED)
    assert manifest["group"].to_pylist() == ["3", None, None]


def test_fractions_and_true_and_false_stay_what_they_are(folder):
    labels = [0.5, True, 1e300]
    rows = [{"image": row["image"], "label": label} for row, label in zip(ROWS, labels, strict=True)]
    manifest, _ = scan(write(folder, "jsonl", rows), TableColumns("image", "label", None, None, ()))
    assert manifest["class_name"].to_pylist() == ["0.5", "True", str(int(1e300))]


def test_an_identity_of_several_values_is_refused(folder):
    with pytest.raises(
        SourceError, match=r"row 1, column patient holds \{'\$oid': '1f'\}; it must be one text or number: choose one"
    ):
        scan(write(folder, "jsonl", [ROWS[0] | {"patient": {"$oid": "1f"}}, ROWS[1]]))


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"label": "\ud83d"}, "row 2, column label"),
        ({"label": ["a", "\ud83d"]}, r"row 2, column label, in \['a', '\\ud83d'\],"),
        ({"patient": "\ud83d"}, "row 2, column patient"),
        ({"image": "\ud83d"}, "row 2, column image"),
    ],
)
def test_half_a_character_is_no_text(folder, change, where):
    with pytest.raises(SourceError, match=rf"table.jsonl, {where} holds '\\ud83d', where a character was cut in half"):
        scan(write(folder, "jsonl", [ROWS[0], ROWS[1] | change]))


def test_half_a_character_among_separated_classes_is_no_text(folder):
    columns = COLUMNS._replace(separator=";")
    with pytest.raises(SourceError, match=r"row 1, column label holds 'a;\\ud83d', .* write it whole, or delete it"):
        scan(write(folder, "jsonl", [ROWS[0] | {"label": "a;\ud83d"}]), columns)


def test_a_file_name_of_any_bytes_is_found_by_json_lines(folder):
    name = os.fsdecode(b"images/\xff.jpg")
    (folder / name).write_bytes(b"12345")
    manifest, _ = scan(write(folder, "jsonl", [ROWS[1], ROWS[0] | {"image": name}]))
    assert "images/\\xff.jpg" in manifest["path"].to_pylist()


SIGNED = "https://me:hunter2@host/1.jpg?sig=hunter2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", f"image,label\n{SIGNED},a,b\n", "bad.csv cannot be read as csv: .*https://host/1.jpg"),
        ("headless.csv", f"{SIGNED},a\n{SIGNED},b\n", "has no column 'image'; it has 'https://host/1.jpg', 'a'. Name"),
        ("text.jsonl", f'"{SIGNED}"', "line 1, is .*https://host/1.jpg.*; every line must be a JSON object"),
        (
            "list.jsonl",
            f'{{"image": ["{SIGNED}"], "label": 1}}',
            r"column image holds \['https://host/1.jpg'\]; it must",
        ),
        (
            "half.jsonl",
            f'{{"image": "{SIGNED}\\ud83d", "label": 1}}',
            "column image holds 'https://host/1.jpg'?, where",
        ),
    ],
)
def test_messages_about_a_table_tell_no_secrets_of_addresses(folder, name, content, message):
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match=message) as caught:
        scan(str(folder / name), TableColumns("image", "label", None, None, ()))
    assert "hunter2" not in str(caught.value)


def test_metadata_that_json_does_not_have(folder):
    import datetime

    taken = datetime.date(2024, 5, 6)
    rows = [{"image": row["image"], "label": str(n), "x": float("nan"), "taken": taken} for n, row in enumerate(ROWS)]
    manifest, _ = scan(write(folder, "parquet", rows), TableColumns("image", "label", None, None, ("x", "taken")))
    assert manifest["metadata"][0].as_py() == '{"taken": "2024-05-06", "x": null}'


def test_absolute_paths_and_a_newline_in_a_value(folder):
    rows = [row | {"image": str(folder / row["image"]), "site": "two\nlines"} for row in ROWS]
    manifest, _ = scan(write(folder, "csv", rows))
    assert manifest["path"][0].as_py() == str(folder / "images/1.jpg")
    assert json.loads(manifest["metadata"][0].as_py())["site"] == "two\nlines"


def test_newlines_in_values_of_a_table_that_is_read_in_several_blocks(folder):
    rows = [ROWS[n % 2] | {"site": "line\n" * 100} for n in range(5000)]
    source = write(folder, "csv", rows)
    assert (folder / "table.csv").stat().st_size > 2 * 2**20
    manifest, _ = scan(source)
    assert manifest.num_rows == 5000
    assert {json.loads(value)["site"] for value in manifest["metadata"].unique().to_pylist()} == {"line\n" * 100}


def test_a_later_line_may_leave_out_what_is_optional(folder):
    rows = [ROWS[0], {"image": "images/2.jpg", "label": "8"}]
    manifest, _ = scan(write(folder, "jsonl", rows))
    assert manifest["group"].to_pylist() == ["p1", None]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl"])
@pytest.mark.parametrize("missing", COLUMNS._fields[:4])
def test_a_column_that_is_not_there(folder, kind, missing):
    columns = COLUMNS._replace(**{missing: "nope"})
    with pytest.raises(SourceError, match=r"has no column 'nope'; it has 'image', 'label', .*'age'. Name the right"):
        scan(write(folder, kind, ROWS), columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": "images/9.jpg"},
            r"row 2 names .*images/9.jpg, which does not exist; paths are absolute or",
        ),
        ({"image": "images"}, r"row 2 names .*images, which is no regular file"),
        ({"image": ""}, r"row 2, column image is empty; fill it in or delete the row"),
        ({"label": " "}, r"row 2, column label is empty; fill it in or delete the row"),
        ({"split": "trian"}, r"row 2 has the split 'trian'; it must be train, validation, test or empty"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_row_that_cannot_be_used_is_named(folder, kind, change, message):
    with pytest.raises(SourceError, match=message):
        scan(write(folder, kind, [ROWS[0], ROWS[1] | change]))


def test_a_table_without_rows(folder):
    (folder / "table.csv").write_text("image,label,split,patient,site,age\n")
    with pytest.raises(SourceError, match=r"holds no images"):
        scan(str(folder / "table.csv"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.csv", b"image,label,split,patient,site,age\n1,2\n", "bad.csv cannot be read as csv: .*mend or export it"),
        ("latin.csv", b"image,label,split,patient,site,age\n\xe4,2,,,,\n", "latin.csv cannot be read as csv"),
        ("empty.csv", b"", "empty.csv cannot be read as csv"),
        ("bad.parquet", b"PAR1", "bad.parquet cannot be read as parquet"),
        ("bad.jsonl", b"\n{", "bad.jsonl, line 2, cannot be read as JSON: Expecting .* at character 2; mend"),
        ("long.jsonl", b'{"image": ' + b"9" * 5000 + b"}", "long.jsonl, line 1, holds a whole number of more digits"),
        ("list.jsonl", b"[1]", r"list.jsonl, line 1, is '\[1\]'; every line must be a JSON object"),
    ],
)
def test_a_file_that_is_no_table(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        scan(str(folder / name))

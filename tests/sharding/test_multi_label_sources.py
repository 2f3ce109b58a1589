"""Sources whose images have any number of classes: what the manifest and the counts say of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_folders import BY_FOLDERS, fill, jpeg, scan, scanned, write_tar

from pipeline.errors import SourceError
from pipeline.sharding.labels import read_labels

BY_BARS = BY_FOLDERS._replace(separator="|")
LABELS = [["dog", "cat"], [], ["cat"], ["cat", "dog", "cat"]]


@pytest.fixture
def folder(tmp_path) -> Path:
    return fill(tmp_path, {f"{number}.jpg": jpeg(number) for number in range(len(LABELS))})


def write(folder: Path, kind: str, labels: list) -> str:
    rows = [{"image": f"{number}.jpg", "label": each} for number, each in enumerate(labels)]
    path = folder / f"table.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = "\t" if kind == "tsv" else ","
        lines = [["image", "label"], *(row.values() for row in rows)]
        path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "labels", "columns"),
    [
        ("jsonl", LABELS, BY_FOLDERS),
        ("parquet", LABELS, BY_FOLDERS),
        ("jsonl", LABELS, BY_BARS),
        ("csv", ["dog|cat", "", " cat ", "cat| dog||cat"], BY_BARS),
        ("tsv", ["dog|cat", "|", "cat", "cat|dog"], BY_BARS),
        ("parquet", ["dog|cat", None, "cat", "cat|dog"], BY_BARS),
    ],
)
def test_every_class_of_an_image_is_kept_and_none_is_none(folder, kind, labels, columns):
    manifest, counts = scan(write(folder, kind, labels), columns)
    assert manifest["class_names"].to_pylist() == ['["cat", "dog"]', "[]", '["cat"]', '["cat", "dog"]']
    assert (counts.multi_label, counts.class_counts, counts.num_without_class) == (True, {"cat": 3, "dog": 2}, 1)
    assert counts.num_records == 4


def test_one_class_each_stays_as_it_was(folder):
    manifest, counts = scan(write(folder, "csv", ["a|b", "c", "c", "c"]))
    assert manifest.column_names[1] == "class_name"
    assert manifest["class_name"].to_pylist() == ["a|b", "c", "c", "c"]
    assert (counts.multi_label, counts.class_counts, counts.num_without_class) == (False, {"a|b": 1, "c": 3}, 0)


def test_one_class_is_enough_where_an_image_may_have_none(folder):
    assert scan(write(folder, "jsonl", [["defect"], [], [], []]))[1].class_counts == {"defect": 1}


def test_labels_are_numbers_in_the_order_of_the_names(folder, tmp_path):
    source = write(folder, "jsonl", [["ü", 10], [2.0], [], ["ü"]])
    labels = read_labels(scanned(Path(source), tmp_path / "m.parquet"))
    assert labels.classes == ["10", "2", "ü"]
    assert labels.of(slice(0, 4)) == [(0, 2), (1,), (), (2,)]
    assert [labels.name(row) for row in range(4)] == ["10, ü", "2", "(no class)", "ü"]
    assert labels.count(labels.has_any([2])).tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        (
            "jsonl",
            [["a"], "b"],
            r"labels 1\.jpg with one and 0\.jpg with a list of classes; give every",
        ),
        ("jsonl", ["a", ["b"]], r"labels 1\.jpg with a list of classes and 0\.jpg with one"),
        ("jsonl", [["a", None]], r"row 1, column label, in \['a', None\], is empty; fill it in"),
        ("jsonl", [[{"a": 1}]], r"row 1, column label, in .* holds \{'a': 1\}; it must be one text or number"),
        ("jsonl", [["a"], None], r"row 2, column label is empty"),
        (
            "parquet",
            [[], []],
            r"gives none of its 2 images a class; check data\.label_column and",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named(folder, kind, labels, message):
    with pytest.raises(SourceError, match=message):
        scan(write(folder, kind, labels))


def test_tars_with_a_list_in_their_json(tmp_path):
    """The labels of a multi-label set of ours, too, which are numbers."""
    samples = [("0", ["b", "a"]), ("1", []), ("2", [7])]
    members = [
        member
        for key, labels in samples
        for member in ((f"{key}.jpg", jpeg(int(key))), (f"{key}.json", json.dumps({"labels": labels}).encode()))
    ]
    write_tar(tmp_path / "set.tar", members)
    manifest, counts = scan(tmp_path / "set.tar", BY_FOLDERS._replace(label="labels"))
    assert manifest["class_names"].to_pylist() == ['["a", "b"]', "[]", '["7"]']
    assert counts.num_without_class == 1


def test_tars_with_a_label_that_is_none(tmp_path):
    write_tar(tmp_path / "set.tar", [("0.jpg", jpeg(0)), ("0.json", b'{"label": ["a", ""]}')])
    with pytest.raises(SourceError, match=r"0\.jpg has the labels \['a', ''\] in its json member; each must be"):
        scan(tmp_path / "set.tar")

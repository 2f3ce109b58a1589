"""Row 20: odd names through scan, shard and audit: each present once, recoverable, and inert where shown."""

import csv
import json
import os
import re

import data_project
import pyarrow.parquet as pq
import pytest
import timm
from image_folders import ODD_NAMES, jpeg
from projects import REPOSITORY

from pipeline import params
from pipeline.artifacts import HISTORY_COLUMNS, Index, Run
from pipeline.path_names import unescape_path
from pipeline.registry import export
from pipeline.stages import layout
from pipeline.stages.evaluate import evaluate

CLASSES = [b"plain", b"<b>odd<b> \xfe =class()"]
BAD = b"<img src=x onerror=alert(1)>.jpg"


@pytest.fixture
def photos(tmp_path) -> dict[bytes, bytes]:
    """The contents by name, as bytes relative to the source, written to the folder."""
    contents = {
        class_name + b"/" + name: jpeg(100 * label + number)
        for label, class_name in enumerate(CLASSES)
        for number, name in enumerate(ODD_NAMES)
    }
    contents[CLASSES[0] + b"/" + BAD] = b"text"
    for path, data in contents.items():
        name = tmp_path / "photos" / os.fsdecode(path)
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(data)
    return contents


def test_each_name_is_there_once_and_can_be_recovered(tmp_path, photos):
    found = data_project.run(tmp_path)
    assert {unescape_path(path): facts["image"] for path, facts in found.samples.items()} == {
        path: data for path, data in photos.items() if not path.endswith(BAD)
    }
    assert [unescape_path(path) for path in found.rejects] == [CLASSES[0] + b"/" + BAD]
    assert [unescape_path(name) for name in found.index.classes] == sorted(CLASSES)
    for facts in found.samples.values():
        assert unescape_path(facts["path"]).startswith(unescape_path(found.index.classes[facts["label"]]))


def test_no_name_leaves_the_folder_or_names_a_file(tmp_path, photos):
    data_project.run(tmp_path)
    for path in (tmp_path / "data").rglob("*"):
        assert path.name.isascii()
        assert not any(character in path.name for character in " <>=\"'\\\n")


def test_what_is_printed_has_no_markup_and_no_line_of_its_own(tmp_path, photos, capsys):
    for name in (b"[bold]twin.jpg", b"twin\ntwo.jpg"):
        (tmp_path / "photos/plain" / os.fsdecode(name)).write_bytes(jpeg(777))
    data_project.run(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("duplicates:")]
    assert "[bold]twin.jpg" in line
    assert "twin\\ntwo.jpg" in line


def test_text_files_stay_one_line_a_record(tmp_path, photos):
    data_project.run(tmp_path)
    (line,) = layout.REJECTS.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["path"] == (CLASSES[0] + b"/" + BAD).decode()


def test_the_report_and_its_tables_are_inert(tmp_path, photos):
    index = data_project.run(tmp_path, test_fraction=0.6).index
    write_an_untrained_model(index)
    evaluate(**params.read(REPOSITORY / "params.yaml", ["evaluation", "loading"]))
    page = layout.PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"<(script|iframe|object|embed|link)\b", page)
    assert "<b>odd" not in page
    assert "&lt;b&gt;odd&lt;b&gt;" in page
    with layout.CONFUSION.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "-"))]
    assert set(cells) >= {*index.classes}
    paths = pq.read_table(layout.PREDICTIONS)["path"].to_pylist()
    assert paths
    assert {unescape_path(path) for path in paths} <= photos.keys()


def write_an_untrained_model(index: Index) -> None:
    """What the train stage would leave."""
    model = timm.create_model("test_resnet", num_classes=len(index.classes))
    facts = {"backbone": "test_resnet", "classes": index.classes, "input_px": 32, "num_channels": 3}
    export.write(layout.MODEL, model, mean=index.mean, std=index.std, **facts)
    nothing = dict.fromkeys(
        ("num_parameters", "num_steps", "num_epochs", "exported_epoch", "world_size", "attempts"), 1
    )
    Run(
        fingerprint="f",
        run_id=None,
        tracking_uri="",
        index_digest=index.digest,
        backbone="test_resnet",
        ending="",
        train_seconds=1.0,
        images_per_second=1.0,
        validation={},
        **nothing,
    ).write(layout.RUN)
    layout.HISTORY.write_text(",".join(HISTORY_COLUMNS) + "\n" + ",".join("1" for _ in HISTORY_COLUMNS) + "\n")

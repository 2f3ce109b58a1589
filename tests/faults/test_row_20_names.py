"""Row 20: odd names through scan, shard and audit: each present once, recoverable, and inert where shown."""

import json
import os

import data_project
import pytest
from image_folders import jpeg

from pipeline.artifacts import unescape_path
from pipeline.stages import layout

NAMES = [
    b"with space.jpg",
    "e\u0301.jpg".encode(),
    "\u00e9.jpg".encode(),
    "\u05e9\u05dc\u05d5\u05dd.jpg".encode(),
    b"new\nline.jpg",
    b"'quotes\".jpg",
    b"<script>alert(1)<.jpg",
    b"=cmd().jpg",
    b"+1.jpg",
    b"@sum.jpg",
    b"comma,semicolon;.jpg",
    b"\xff\xfe no utf8.jpg",
    b"back\\slash \\xff.jpg",
    b"a.b.c.jpg",
    b".leading dot.jpg",
    b"__x__.jpg",
    b"Case.jpg",
    b"case.jpg",
    b"x" * 251 + b".jpg",
    b"[bold]markup[.jpg",
]
CLASSES = [b"plain", b"<b>odd<b> \xfe =class()"]
BAD = b"<img src=x onerror=alert(1)>.jpg"


@pytest.fixture
def photos(tmp_path) -> dict[bytes, bytes]:
    """The contents by name, as bytes relative to the source, written to the folder."""
    contents = {
        class_name + b"/" + name: jpeg(100 * label + number)
        for label, class_name in enumerate(CLASSES)
        for number, name in enumerate(NAMES)
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

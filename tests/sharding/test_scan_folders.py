"""Folders to manifests: what is a record, what is ignored and why, what is refused."""

import os
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from forked import as_nobody, in_a_child
from image_folders import ODD_NAMES, scan, scanned

from pipeline.errors import SourceError
from pipeline.path_names import unescape_path
from pipeline.sharding.folders import find_in_folders
from pipeline.sharding.scan import image_root, scan_source
from pipeline.sharding.tables import TableColumns

UNUSED = TableColumns("image", "label", None, None, ())


def fill(root: Path, *names: str) -> str:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")
    return str(root)


def paths(source: str) -> list[str]:
    return scan(source)[0]["path"].to_pylist()


def test_a_folder_a_class(tmp_path):
    source = fill(tmp_path, "cat/2.jpg", "cat/1.PNG", "dog/deep/er/3.tiff", "dog/4.webp")
    manifest, counts = scan(source)
    assert manifest["path"].to_pylist() == ["cat/1.PNG", "cat/2.jpg", "dog/4.webp", "dog/deep/er/3.tiff"]
    assert manifest["class_name"].to_pylist() == ["cat", "cat", "dog", "dog"]
    assert manifest["split"].null_count == 4
    assert counts.class_counts == {"cat": 2, "dog": 2}
    assert (counts.num_records, counts.num_bytes, counts.split_counts, counts.ignored) == (4, 4 * 13, {}, {})
    assert image_root(source) == str(tmp_path)


@pytest.mark.parametrize("validation", ["val", "validation", "Val"])
def test_split_folders_fix_the_split(tmp_path, validation):
    manifest, counts = scan(fill(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{validation}/a/3.jpg", "test/b/4.jpg"))
    assert dict(zip(manifest["path"].to_pylist(), manifest["split"].to_pylist(), strict=True)) == {
        "train/a/1.jpg": "train",
        "train/b/2.jpg": "train",
        f"{validation}/a/3.jpg": "validation",
        "test/b/4.jpg": "test",
    }
    assert set(manifest["class_name"].to_pylist()) == {"a", "b"}
    assert counts.split_counts == {"test": 1, "train": 2, "validation": 1}


def test_classes_may_be_called_train_and_test(tmp_path):
    _, counts = scan(fill(tmp_path, "train/1.jpg", "test/2.jpg"))
    assert counts.class_counts == {"test": 1, "train": 1}
    assert counts.split_counts == {}


def test_what_is_no_record_is_counted_by_reason(tmp_path):
    source = fill(
        tmp_path, "a/1.jpg", "b/2.jpg", "a/._1.jpg", "a/notes.txt", "a/Thumbs.db", "a/.git/3.jpg", "README.md", "x.jpg"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a/broken.jpg").symlink_to("nowhere")
    (tmp_path / "b/itself.jpg").symlink_to("itself.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b/socket.jpg"))
        manifest, counts = scan(source)
    assert manifest["path"].to_pylist() == ["a/1.jpg", "b/2.jpg"]
    assert counts.ignored == {
        "empty_class": 1,
        "hidden": 3,
        "not_a_regular_file": 4,
        "outside_a_class": 2,
        "unknown_extension": 2,
    }


def test_links_to_images_count_and_loops_end(tmp_path):
    source = fill(tmp_path / "set", "a/1.jpg", "b/2.jpg")
    fill(tmp_path, "elsewhere/3.jpg")
    (tmp_path / "set/a/link.jpg").symlink_to("../../elsewhere/3.jpg")
    (tmp_path / "set/b/folder").symlink_to("../../elsewhere")
    (tmp_path / "set/a/up").symlink_to("..")
    (tmp_path / "set/b/here").symlink_to(".")
    (tmp_path / "set/b/far_up").symlink_to(tmp_path)
    manifest, counts = scan(source)
    found = manifest["path"].to_pylist()
    assert [path for path in found if "far_up" not in path] == ["a/1.jpg", "a/link.jpg", "b/2.jpg", "b/folder/3.jpg"]
    assert len(found) <= 7, "each folder is entered once a class"
    assert counts.ignored["folder_seen_before"] >= 2


def test_every_name_is_there_once_and_can_be_recovered(tmp_path):
    fill(tmp_path, "plain/1.jpg")
    odd = tmp_path / os.fsdecode(b"odd \xfe class")
    odd.mkdir()
    for name in ODD_NAMES:
        (odd / os.fsdecode(name)).write_bytes(b"")
    manifest, counts = scan(str(tmp_path))
    found = [unescape_path(path) for path in manifest["path"].to_pylist() if path != "plain/1.jpg"]
    assert sorted(found) == sorted(b"odd \xfe class/" + name for name in ODD_NAMES)
    assert counts.class_counts == {"odd \\xfe class": len(ODD_NAMES), "plain": 1}


def test_the_manifest_is_the_same_bytes_until_something_changes(tmp_path):
    source = fill(tmp_path / "set", *(f"{label}/{number}.jpg" for label in "ab" for number in range(50)))
    for name in ("first", "second"):
        assert scanned(source, tmp_path / name).num_rows == 100
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    os.utime(tmp_path / "set/a/3.jpg", ns=(1, 1))
    scanned(source, tmp_path / "second")
    assert (tmp_path / "first").read_bytes() != (tmp_path / "second").read_bytes()


def test_no_image_is_opened(tmp_path):
    source = fill(tmp_path, "a/1.jpg", "b/2.jpg")
    for path in tmp_path.glob("*/*.jpg"):
        path.chmod(0)
        os.utime(path, ns=(0, 0))
    assert len(paths(source)) == 2
    assert all(path.stat().st_atime_ns == 0 for path in tmp_path.glob("*/*.jpg"))


def test_advance_is_told_of_every_file(tmp_path):
    done = []
    source = fill(tmp_path / "set", *(f"a/{number}.jpg" for number in range(1003)), "b/1.jpg", "b/1.txt")
    scan_source(source, UNUSED, tmp_path / "manifest", done.append)
    assert done == [1000, 3, 2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"holds no images; put them into one folder a class"),
        (["a/notes.txt"], r"holds no images \(ignored: 1 empty_class, 1 unknown_extension\)"),
        (["a/1.jpg", "a/2.jpg"], r"has one class only, 'a'; a classifier needs at least two: add a folder"),
        (["1.jpg", "2.png"], r"holds 2 images and no folders; the class of an image is the name of its folder"),
        (["train/a/1.jpg", "other/2.jpg"], r"holds train/ with folders in it beside other/: the folders are either"),
        (["test/a/1.jpg", "test/b/2.jpg"], r"holds test but no train folder; add one, or point data.source one level"),
    ],
)
def test_a_folder_that_nothing_can_be_trained_on(tmp_path, names, message):
    with pytest.raises(SourceError, match=message) as caught:
        scan(fill(tmp_path, *names))
    assert str(caught.value).startswith(f"data.source={tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"does not exist \(looked at .*nowhere\); give a folder class/image, a table \(.csv, .tsv"),
        ("images.zip", r"is none of what is read; give a folder class/image, a table .*unpack other archives first"),
        (
            "https://host/images",
            r"is an address on the web, where folders cannot be listed; give a table .*, or a .tar",
        ),
        ("nostore://images", r".*Protocol not known.*install its extra .* or check the address"),
    ],
)
def test_a_source_of_another_kind(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("images.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=rf"(data.source=)?{name} {message}"):
        scan(name)


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    source = fill(tmp_path, "a/1.jpg", "b/2.jpg")
    real = os.scandir

    def scandir(folder):  # root may list everything: the refusal itself cannot be had on every machine
        if folder == os.fsencode(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SourceError, match=r"/b cannot be listed \(Permission denied\); make it readable"):
        scan(source)


@pytest.fixture
def seen_by_all():
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    (folder / "b").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(("mode", "doing"), [(0o644, "entered"), (0o311, "listed")])
def test_a_folder_that_may_be_listed_or_entered_and_not_both_is_named(seen_by_all, mode, doing):
    fill(seen_by_all, "a/1.jpg", "b/2.jpg")
    (seen_by_all / "b").chmod(mode)

    def look() -> None:
        as_nobody()
        list(find_in_folders(str(seen_by_all), Counter(), lambda count: None))

    code, message = in_a_child(look)
    assert code == 1
    assert message == (
        f"SourceError: {seen_by_all}/b cannot be {doing} (Permission denied); make it readable (chmod u+rx) and leave "
        "the source alone while it is scanned."
    )


def test_a_source_that_cannot_be_listed_is_named(seen_by_all):
    (seen_by_all / "b").mkdir(mode=0o311)

    def look() -> None:
        as_nobody()
        scan_source(f"{seen_by_all}/b", UNUSED, seen_by_all / "manifest", lambda count: None)

    code, message = in_a_child(look)
    assert code == 1
    assert message.startswith(f"SourceError: {seen_by_all}/b cannot be listed (Permission denied); make it readable")


def test_what_is_removed_after_it_was_listed_is_counted_or_named(tmp_path):
    source, ignored = fill(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg"), Counter()
    records = find_in_folders(source, ignored, lambda count: None)
    assert next(records).class_name == "a"
    shutil.rmtree(tmp_path / "a")
    assert [record.path for record in records] == ["b/1.jpg"]
    assert ignored["unreadable_file"] == 1
    records = find_in_folders(fill(tmp_path, "a/1.jpg"), Counter(), lambda count: None)
    next(records)
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(
        SourceError, match=r"/b cannot be entered \(No such file or directory\); .* leave the source alone"
    ):
        list(records)


def test_arrays_are_images(tmp_path):
    _, counts = scan(fill(tmp_path, "a/1.npy", "b/2.NPY", "a/3.npz"))
    assert (counts.num_records, counts.ignored) == (2, {"unknown_extension": 1})

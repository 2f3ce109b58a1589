import os
from pathlib import Path

import pytest

from pipeline.errors import ImageError
from pipeline.sharding.reading import MAX_IMAGE_BYTES, absolute_root, member_path, read_image


def test_a_path_of_the_manifest_leads_to_the_bytes(tmp_path):
    (tmp_path / "a\udcff \\b.jpg").write_bytes(b"bytes")
    assert read_image(tmp_path, "a\\xff \\\\b.jpg") == b"bytes"
    (tmp_path / "plain.jpg").write_bytes(b"others")
    assert read_image(tmp_path / "elsewhere", str(tmp_path / "plain.jpg")) == b"others", "absolute paths stay"


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(ImageError, match=r"The file cannot be read: No such file or directory") as caught:
        read_image(tmp_path, "gone.jpg")
    assert caught.value.reason == "unreadable_file"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "large.jpg").touch()
    os.truncate(tmp_path / "large.jpg", MAX_IMAGE_BYTES + 1)
    with pytest.raises(ImageError, match=rf"has {MAX_IMAGE_BYTES + 1} bytes, more than the") as caught:
        read_image(tmp_path, "large.jpg")
    assert caught.value.reason == "too_many_bytes"


def test_a_root_is_made_absolute_whatever_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_root("photos") == absolute_root(Path("photos")) == f"{tmp_path}/photos"
    assert absolute_root("tar::sets") == f"tar::{tmp_path}/sets"
    assert absolute_root("s3://bucket/a") == "s3://bucket/a"
    assert absolute_root("tar::s3://bucket/a") == "tar::s3://bucket/a"
    assert absolute_root(str(tmp_path)) == str(tmp_path)


def test_a_member_is_found_by_its_place_whatever_it_is_called(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"..bytes..")
    for name in ("1.jpg", "x.tar/1.jpg", "../1#2+3.jpg", "\\xff\n.jpg"):
        assert read_image(f"tar::{tmp_path}", member_path("a.tar", name, 2, 5)) == b"bytes"

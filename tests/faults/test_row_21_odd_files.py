"""Row 21: one name in two folders, links, hard links, pipes, sockets, unreadable files: no hang, all counted."""

import os
import socket
import threading

import data_project
import pytest
from image_folders import fill, jpeg

from pipeline.errors import ImageError
from pipeline.sharding import reading
from pipeline.sharding.reading import read_image

PLAIN = {f"{label}/{folder}/same.jpg": jpeg(ord(label) + ord(folder)) for label in "ab" for folder in "xyz"}


def test_each_file_that_is_one_is_a_sample_and_the_others_are_counted(tmp_path):
    photos = fill(tmp_path / "photos", PLAIN)
    os.link(photos / "a/x/same.jpg", photos / "b/hard.jpg")
    (photos / "a/loop").symlink_to("..")
    (photos / "a/itself.jpg").symlink_to("itself.jpg")
    (photos / "b/nowhere.jpg").symlink_to("gone.jpg")
    (photos / "b/link.jpg").symlink_to("x/same.jpg")
    os.mkfifo(photos / "a/pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(photos / "b")  # a socket's path has at most 107 bytes
        server.bind("socket.jpg")
        found = data_project.run(tmp_path)
    reached_by_loop = {path for path in found.samples if path.startswith("a/loop/")}
    assert found.samples.keys() - reached_by_loop == PLAIN.keys() | {"b/hard.jpg", "b/link.jpg"}
    assert found.rejects == {}
    assert found.ignored["not_a_regular_file"] >= 4
    assert found.ignored["folder_seen_before"] >= 1
    assert found.samples["b/hard.jpg"]["sha256"] == found.samples["a/x/same.jpg"]["sha256"]
    assert found.audit["findings"]["contradictory_labels"]["num_groups"] >= 1


def test_a_file_that_cannot_be_read_is_a_reject(tmp_path, monkeypatch):
    fill(tmp_path / "photos", PLAIN)
    (tmp_path / "photos/a/x/same.jpg").chmod(0)
    if os.geteuid() == 0:
        real = open

        def refuse(name, *arguments, **options):  # root may read everything
            if os.fsencode(name).endswith(b"a/x/same.jpg"):
                raise PermissionError(13, "Permission denied")
            return real(name, *arguments, **options)

        monkeypatch.setattr(reading, "open", refuse, raising=False)
    found = data_project.run(tmp_path)
    assert found.rejects == {"a/x/same.jpg": "unreadable_file"}


@pytest.mark.timeout(30)
def test_a_pipe_that_took_a_files_place_after_the_scan_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    caught = []

    def read() -> None:
        try:
            read_image(tmp_path, "pipe.jpg")
        except ImageError as exc:
            caught.append(exc)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert [exc.reason for exc in caught] == ["unreadable_file"]

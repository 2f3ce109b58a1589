"""A stage's outputs appear whole or not at all: every crash point, two writers, a full disk, a read-only folder."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from forked import as_nobody, in_a_child
from small_disks import small_disk

from pipeline.errors import LockedError, StorageError
from pipeline.stages import publish
from pipeline.stages.publish import publishing

FILE_OPERATIONS = ("open", "os.", "shutil.", "fcntl.", "ctypes.")
"""Prefixes of the audit events that a file operation raises just before it happens; renameat2 goes through ctypes."""

STOPPED = 9


def write(path: Path, content: str, as_folder: bool) -> None:
    path.parent.mkdir(exist_ok=True)
    if as_folder:
        (path / "deep").mkdir(parents=True)
        (path / "a.txt").write_text(content)
        path = path / "deep" / "b.txt"
    path.write_text(content)


def state(path: Path) -> dict[str, str] | None:
    """What lies at `path`, file by file; None when nothing does."""
    if not path.exists():
        return None
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return {str(each.relative_to(path)): each.read_text() for each in files}


def publish_all(targets: list[Path], content: str, as_folder: bool) -> None:
    with publishing(*targets) as privates:
        for private in privates:
            write(private, content, as_folder)


def stop_at(operation: int, action) -> int:
    """Exit code of `action` in a process that ends, as by SIGKILL, just before its `operation`-th file operation."""

    def stopping():
        remaining = operation

        def watch(event: str, _) -> None:
            nonlocal remaining
            if event.startswith(FILE_OPERATIONS):
                remaining -= 1
                if remaining == 0:
                    os._exit(STOPPED)

        sys.addaudithook(watch)
        action()

    return in_a_child(stopping)[0]


@pytest.mark.parametrize("as_folder", [False, True], ids=["files", "folders"])
@pytest.mark.parametrize("has_old", [False, True], ids=["fresh", "replacing"])
@pytest.mark.parametrize("num_targets", [1, 2])
def test_stopped_at_any_operation_each_output_is_the_old_or_the_new(tmp_path, as_folder, has_old, num_targets):
    write(tmp_path / "old", "old", as_folder)
    write(tmp_path / "new", "new", as_folder)
    old, new = (state(tmp_path / "old") if has_old else None), state(tmp_path / "new")
    seen, code, operation = set(), STOPPED, 0
    while code == STOPPED:
        operation += 1
        folder = tmp_path / f"stopped-at-{operation}"
        targets = [folder / f"target-{number}" for number in range(num_targets)]
        if has_old:
            for target in targets:
                write(target, "old", as_folder)
        code = stop_at(operation, lambda targets=targets: publish_all(targets, "new", as_folder))
        states = [state(target) for target in targets]
        num_new = states.count(new)
        assert states == [new] * num_new + [old] * (num_targets - num_new), f"stopped at operation {operation}"
        seen.add(num_new)

        publish_all(targets, "newer", as_folder)
        assert {content for target in targets for content in state(target).values()} == {"newer"}
        assert not list(folder.glob(".*.partial"))
    assert code == 0
    assert seen == set(range(num_targets + 1))


def test_a_target_that_was_not_written_keeps_its_content(tmp_path):
    (tmp_path / "one").write_text("old")
    with publishing(tmp_path / "one", tmp_path / "two") as (_, two):
        two.write_text("new")
    assert (tmp_path / "one").read_text() == "old"
    assert (tmp_path / "two").read_text() == "new"


@pytest.mark.parametrize("as_folder", [False, True], ids=["file", "folder"])
def test_an_error_inside_leaves_the_old_output_and_passes_through(tmp_path, as_folder):
    target = tmp_path / "target"
    write(target, "old", as_folder)
    before = state(target)

    def fail() -> None:
        with publishing(target) as (private,):
            write(private, "new", as_folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state(target) == before


@pytest.mark.parametrize(("old_is_folder", "new_is_folder"), [(True, False), (False, True)])
def test_a_folder_can_take_a_files_place_and_the_other_way_round(tmp_path, old_is_folder, new_is_folder):
    target = tmp_path / "target"
    write(target, "old", old_is_folder)
    if not old_is_folder:
        target.unlink()  # DVC removes a stage's old output before the stage runs
    with publishing(target) as (private,):
        write(private, "new", new_is_folder)
    assert set(state(target).values()) == {"new"}


def test_where_two_folders_cannot_be_swapped_the_new_one_still_takes_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    write(tmp_path / "target", "old", as_folder=True)
    publish_all([tmp_path / "target"], "new", as_folder=True)
    assert set(state(tmp_path / "target").values()) == {"new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".target.lock", "target"]


HOLD_THE_LOCK = """
import sys
from pathlib import Path
from pipeline.stages.publish import publishing
with publishing(Path(sys.argv[1])) as (private,):
    private.write_text("first")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def first_writer(tmp_path):
    """A second process that is inside `publishing(tmp_path / "target")` and ends at a line on its stdin."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, tmp_path / "target"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "writing\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path, first_writer):
    with pytest.raises(LockedError) as caught:
        publish_all([tmp_path / "target"], "second", as_folder=False)
    assert str(caught.value) == (
        f"{tmp_path} is being written by process {first_writer.pid} on {socket.gethostname()}; "
        "wait for it to end, or end it, then run this again."
    )
    first_writer.communicate("go on\n")
    assert first_writer.returncode == 0
    assert (tmp_path / "target").read_text() == "first"


def test_the_lock_dies_with_its_holder(tmp_path, first_writer):
    first_writer.kill()
    first_writer.wait()
    publish_all([tmp_path / "target"], "second", as_folder=False)
    assert (tmp_path / "target").read_text() == "second"


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def test_a_full_disk_is_named_and_the_old_output_stays(disk):
    target = disk / "target"
    target.write_text("old")
    with pytest.raises(StorageError) as caught, publishing(target) as (private,):
        private.write_bytes(bytes(2_000_000))
    assert str(caught.value) == (
        f"The disk of {disk} is full (0 MB free); nothing was half written. "
        "Free some space and run the same command again."
    )
    assert target.read_text() == "old"
    assert not private.exists(), "it would hold the space that has to be freed"
    publish_all([target], "new", as_folder=False)
    assert target.read_text() == "new"


@pytest.fixture
def read_only_folder():
    """A folder that nobody may write to, with parents that anybody may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_named(read_only_folder):
    def publishing_as_nobody() -> None:
        as_nobody()
        publish_all([read_only_folder / "target"], "new", as_folder=False)

    code, message = in_a_child(publishing_as_nobody)
    assert code == 1
    assert message == (
        f"StorageError: {read_only_folder}/.target.lock cannot be written (Permission denied); "
        "make it writable and run this again."
    )


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM, errno.EACCES])
def test_what_may_not_be_written_is_named(tmp_path, number):
    target = tmp_path / "model/a"
    error = publish.explain(OSError(number, os.strerror(number), str(target)), tmp_path)
    assert str(error) == f"{target} cannot be written ({os.strerror(number)}); make it writable and run this again."
    in_bytes = publish.explain(OSError(number, os.strerror(number), os.fsencode(target)), tmp_path)
    assert str(in_bytes) == str(error)
    unnamed = publish.explain(OSError(number, os.strerror(number)), tmp_path)
    assert str(unnamed).startswith(f"{tmp_path} cannot be written")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_a_storage_error(tmp_path, number):
    error = publish.explain(OSError(number, os.strerror(number)), tmp_path)
    assert isinstance(error, StorageError)
    assert "is full" in str(error)


def test_any_other_failure_is_not_explained_away(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "gone", "x")
    assert publish.explain(error, tmp_path) is None
    source = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/photo.jpg")  # read, not written
    assert publish.explain(source, tmp_path) is None
    with pytest.raises(PermissionError, match="photo"), publish.publishing(tmp_path / "target"):
        raise source
    in_bytes = PermissionError(errno.EACCES, "Permission denied", b"/elsewhere/photo \xff.jpg")
    with pytest.raises(PermissionError, match="photo"), publish.publishing(tmp_path / "target"):
        raise in_bytes

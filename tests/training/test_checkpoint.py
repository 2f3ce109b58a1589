import errno
import json
import os
import shutil
import sys

import pytest
import torch

from pipeline.errors import CheckpointError, StorageError
from pipeline.training import checkpoint


def state(position):
    return {"position": position, "weights": torch.full((1000,), float(position))}


def restore(folder):
    said = []
    return checkpoint.restore(folder, said.append), said


@pytest.fixture
def folder(tmp_path):
    for position in (10, 20, 30):
        checkpoint.save(tmp_path, position, state(position), keep=3)
    return tmp_path


def test_the_newest_comes_back_and_the_oldest_go(folder):
    assert restore(folder)[0]["weights"].eq(30).all()
    checkpoint.save(folder, 40, state(40), keep=2)
    assert checkpoint.positions(folder) == [40, 30]
    assert sorted(path.name for path in folder.iterdir()) == ["step-000000030", "step-000000040"]


def test_an_empty_folder_is_a_fresh_run(tmp_path):
    assert restore(tmp_path) == (None, [])


def damage(folder, position, how):
    path = folder / f"step-{position:09d}"
    if how == "truncated":
        with open(path / "state.pt", "r+b") as file:
            file.truncate(500)
    elif how == "emptied":
        (path / "state.pt").write_bytes(b"")
    elif how == "flipped":
        data = bytearray((path / "state.pt").read_bytes())
        data[len(data) // 2] ^= 1
        (path / "state.pt").write_bytes(data)
    elif how == "no list":
        (path / "commit.json").unlink()
    elif how == "no state":
        (path / "state.pt").unlink()
    elif how == "half a list":
        (path / "commit.json").write_text('{"position": 30')
    elif how == "renamed":
        shutil.copytree(folder / "step-000000010", path, dirs_exist_ok=True)


DAMAGES = {
    "truncated": "state.pt has 500 bytes instead of",
    "emptied": "state.pt has 0 bytes instead of",
    "flipped": "state.pt has another sha256",
    "no list": "commit.json is missing",
    "no state": "state.pt is missing",
    "half a list": "commit.json cannot be read",
    "renamed": "state.pt has another sha256",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_one_is_passed_over_and_said(folder, how):
    damage(folder, 30, how)
    found, said = restore(folder)
    assert found["position"] == 20
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint step-000000030 is damaged ({DAMAGES[how]}")


def test_all_damaged_is_an_error_with_the_way_out(folder):
    for position in (10, 20, 30):
        damage(folder, position, "flipped")
    with pytest.raises(CheckpointError, match=r"All 3 checkpoints in .* are damaged; remove .* to train from the star"):
        restore(folder)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(folder):
    damage(folder, 30, "truncated")
    checkpoint.save(folder, 30, state(30), keep=3)
    assert restore(folder) == ({"position": 30, "weights": pytest.approx(state(30)["weights"])}, [])


@pytest.mark.parametrize(("keep", "kept"), [(1, [25]), (2, [25, 20]), (3, [25, 20, 10])])
def test_damaged_ones_that_were_passed_over_go_and_take_no_whole_one_s_place(folder, keep, kept):
    damage(folder, 30, "flipped")
    assert restore(folder)[0]["position"] == 20
    checkpoint.save(folder, 25, state(25), keep=keep)
    assert checkpoint.positions(folder) == kept
    assert restore(folder) == ({"position": 25, "weights": pytest.approx(state(25)["weights"])}, [])


def test_no_pickled_code_is_run(tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (canary.write_text, ("boom",))

    path = checkpoint.save(tmp_path, 10, state(10), keep=1)
    torch.save({"position": 10, "bomb": Bomb()}, path / "state.pt")
    commit = {
        "position": 10,
        "bytes": (path / "state.pt").stat().st_size,
        "sha256": checkpoint.file_sha256(path / "state.pt"),
    }
    (path / "commit.json").write_text(json.dumps(commit))
    with pytest.raises(
        CheckpointError, match=r"state\.pt holds more than tensors and plain values, and was not loaded"
    ):
        restore(tmp_path)
    assert not canary.exists()


class StoppedError(BaseException):
    """Not an Exception, so that no clean-up catches it."""


FILE_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
stop_before = {"operation": -1, "done": 0, "folder": ""}


def hook(event, args):
    if stop_before["operation"] < 0 or event not in FILE_OPERATIONS or stop_before["folder"] not in str(args[0]):
        return
    stop_before["done"] += 1
    if stop_before["done"] > stop_before["operation"]:
        raise StoppedError


def test_stopped_before_any_file_operation_the_old_or_the_new_is_whole(tmp_path):
    sys.addaudithook(hook)
    operation, outcomes = 0, []
    while True:
        folder = tmp_path / str(operation)
        for position in (10, 20):
            checkpoint.save(folder, position, state(position), keep=2)
        stop_before.update(operation=operation, done=0, folder=str(folder))
        try:
            checkpoint.save(folder, 30, state(30), keep=2)
        except StoppedError:
            pass
        else:
            break
        finally:
            stop_before["operation"] = -1
        found, said = restore(folder)
        assert said == []
        outcomes.append(found["position"])
        checkpoint.save(folder, 40, state(40), keep=2)
        assert checkpoint.positions(folder)[0] == 40
        assert not list(folder.glob(".*"))
        operation += 1
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {20, 30}
    assert len(outcomes) > 5


def test_a_full_disk_is_said_and_the_older_checkpoints_stay(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # where a write that was put off meets the end of the disk
    with pytest.raises(
        StorageError, match=r"checkpoint of step 40 cannot be written to .*No space left.* MB free\); the"
    ):
        checkpoint.save(folder, 40, state(40), keep=2)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-0000000{tens}0" for tens in (1, 2, 3)]
    assert restore(folder)[0]["position"] == 30

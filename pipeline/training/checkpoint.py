"""Checkpoints that are whole or not there: written aside, flushed, listed with their sha256, committed by rename.

A checkpoint is a folder `step-000000123` with `state.pt` and, written after it, `commit.json`. Restoring verifies
before it loads, always with `weights_only`, and falls back to the newest whole one.
"""

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import file_sha256
from pipeline.errors import CheckpointError, StorageError

_PREFIX = "step-"
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def save(folder: Path, position: int, state: dict[str, Any], keep: int) -> Path:
    """Commits `state` as the checkpoint of this position, then removes all but the newest `keep` up to it, those after
    it, which were damaged, and any garbage.

    Raises StorageError for a disk that is full or cannot be written; the older checkpoints stay as they are.
    """
    final = folder / f"{_PREFIX}{position:09d}"
    partial = folder / f".{final.name}.partial"
    try:
        _write(partial, position, state)
        if final.exists():
            shutil.rmtree(final)  # a damaged one that was passed over: nothing whole is ever written twice
        partial.rename(final)
        _flush_folder(folder)
    except OSError as exc:
        shutil.rmtree(partial, ignore_errors=True)
        if exc.errno not in _STORAGE_ERRORS:
            raise
        free_mb = shutil.disk_usage(folder).free / 1e6
        raise StorageError(
            f"The checkpoint of step {position} cannot be written to {folder} ({exc.strerror}, {free_mb:.0f} MB free); "
            "the ones before it are whole. Free some space or make it writable, and run the same command to go on."
        ) from exc
    found = positions(folder)
    passed_over = found.index(position)  # damaged ones that are newer: training went on from one before them
    for old in found[:passed_over] + found[passed_over:][keep:]:
        shutil.rmtree(folder / f"{_PREFIX}{old:09d}")
    for garbage in folder.glob(f".{_PREFIX}*.partial"):
        shutil.rmtree(garbage)
    return final


def _write(partial: Path, position: int, state: dict[str, Any]) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state_path, commit_path = partial / "state.pt", partial / "commit.json"
    with open(state_path, "wb") as file:
        torch.save(state, file)
        _flush(file)
    with open(commit_path, "w", encoding="utf-8") as file:
        json.dump({"position": position, "bytes": state_path.stat().st_size, "sha256": file_sha256(state_path)}, file)
        _flush(file)
    _flush_folder(partial)


def positions(folder: Path) -> list[int]:
    """Positions of the committed checkpoints, newest first. Clocks play no part."""
    names = (path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*"))
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def restore(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest whole checkpoint's state on the CPU; None where there never was one.

    A damaged one is passed over and said. Raises CheckpointError when all are damaged.
    """
    found = positions(folder)
    for position in found:
        path = folder / f"{_PREFIX}{position:09d}"
        problem = _problem(path, position)
        if problem is None:
            return load(folder, position)
        say(f"checkpoint {path.name} is damaged ({problem}); trying the one before it")
    if found:
        raise CheckpointError(
            f"All {len(found)} checkpoints in {folder} are damaged; remove {folder.parent} to train from the start, "
            "or put a whole one back."
        )
    return None


def newest_whole(folder: Path) -> int | None:
    """The position that `restore` would go on from; None where there is none."""
    whole = (each for each in positions(folder) if _problem(folder / f"{_PREFIX}{each:09d}", each) is None)
    return next(whole, None)


def load(folder: Path, position: int) -> dict[str, Any]:
    """The state of a checkpoint that was verified. Raises CheckpointError for one that could run code."""
    path = folder / f"{_PREFIX}{position:09d}" / "state.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, and was not loaded, because that can run code; it was "
            f"not made by this project. Remove {folder.parent} to train from the start."
        ) from exc


def _problem(path: Path, position: int) -> str | None:
    """Why this checkpoint must not be loaded; None when it is whole."""
    try:
        commit = json.loads((path / "commit.json").read_text(encoding="utf-8"))
        wanted = (position, commit["bytes"], commit["sha256"])
        size = (path / "state.pt").stat().st_size
    except FileNotFoundError as exc:
        return f"{Path(exc.filename).name} is missing"
    except (ValueError, KeyError, TypeError):
        return "commit.json cannot be read"
    if size != wanted[1]:
        return f"state.pt has {size} bytes instead of {wanted[1]}"
    if (commit["position"], size, file_sha256(path / "state.pt")) != wanted:
        return "state.pt has another sha256 than it was committed with"
    return None


def _flush(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""How a stage's outputs appear: written into a private sibling, renamed as the last act, by one writer at a time.

A stage killed at any instant leaves its old outputs or its new ones. Works on one file system, by design: the private
sibling lies beside its target.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import LockedError, StorageError

AT_FDCWD = -100
RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def publishing(*targets: Path) -> Iterator[list[Path]]:
    """Private paths to write, one for each target; on a clean exit they take the targets' places, in order.

    A target that was not written keeps its old content; what was written is removed when the block fails. Raises
    StorageError for a full or read-only disk and LockedError when another process is writing the first target.
    """
    folder = targets[0].parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(lock_of(targets[0])):
            privates = [target.with_name(f".{target.name}.partial") for target in targets]
            for private in privates:
                _remove(private)
            try:
                yield privates
            except BaseException as exc:
                explained = explain(exc, folder) if isinstance(exc, OSError) else None  # while the disk is as it was
                for private in privates:
                    with suppress(OSError):
                        _remove(private)
                if explained is not None:
                    raise explained from exc
                raise
            for private, target in zip(privates, targets, strict=True):
                if private.exists():
                    _sync(private)
                    _replace(private, target)
    except OSError as exc:
        explained = explain(exc, folder)
        if explained is None:
            raise
        raise explained from exc


def lock_of(target: Path) -> Path:
    """What its writer locks."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """An exclusive lock on `path` that the kernel gives up with its holder, whatever kills it.

    Raises LockedError naming the holder.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held until the lock is given back
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise LockedError(
                f"{path.parent} is being written by {holder}; wait for it to end, or end it, then run this again."
            ) from exc
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        file.close()


@contextmanager
def turn(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock on `path`, after whoever has it: for what takes seconds and is many processes' to do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the process that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def explain(exc: OSError, folder: Path) -> StorageError | None:
    """The user's version of a failed write under `folder`; None for any other error."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        free_mb = shutil.disk_usage(folder).free / 1e6
        return StorageError(
            f"The disk of {folder.absolute()} is full ({free_mb:.0f} MB free); nothing was half written. "
            "Free some space and run the same command again."
        )
    if exc.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        path, folder = Path(os.fsdecode(exc.filename or folder)).absolute(), folder.absolute()
        if path.is_relative_to(folder) or folder.is_relative_to(path):  # in it, or a folder on the way to it
            return StorageError(f"{path} cannot be written ({exc.strerror}); make it writable and run this again.")
    return None


def _replace(private: Path, target: Path) -> None:
    """Atomic for files and for folders; the old content is removed afterwards."""
    if not target.is_dir() or not private.is_dir():
        if target.is_dir():
            _remove(target)
        private.replace(target)
        return
    if not _exchange(private, target):
        aside = target.with_name(f".{target.name}.old")
        _remove(aside)
        target.rename(aside)
        private.rename(target)
        _remove(aside)
    _remove(private)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one system call; False where kernel or file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    return libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _sync(path: Path) -> None:
    """Flushes a file, or a folder's files and the folder, so that a rename never precedes the bytes."""
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

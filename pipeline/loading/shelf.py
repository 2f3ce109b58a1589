"""Where the files of a shard set lie, and that they are what the index says before anybody reads them.

A tar that was cut or changed reads as a shorter or different one without any error of its own; so size and sha256 are
compared with the index once in each process, and again where another file has taken the place of one that was whole.
Safe to use from many threads.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from pipeline import artifacts, sample_table, stores
from pipeline.artifacts import Index, Shard
from pipeline.errors import ArtifactError
from pipeline.loading.cache import Cache, default_folder
from pipeline.loading.fetch import fetch


class Shelf(Protocol):
    """Tars and tables by their shard."""

    is_remote: bool
    """Whether a tar has to be brought here, and may go again when nobody holds it."""
    row_bytes: int
    """Of a table."""

    def table(self, shard: Shard) -> np.ndarray:
        """The shard's table with its tombstones, [num_stored]."""

    def hold(self, shard: Shard, *, urgent: bool = True) -> Path | None:
        """The path of the verified tar, which stays until `release`. None when it is not urgent and there is no room.

        Raises ArtifactError when it is missing or not what the index says.
        """

    def open(self, shard: Shard) -> int:
        """A descriptor of the verified tar, to be closed before its `release`. Raises ArtifactError as `hold` does."""

    def release(self, shard: Shard) -> None: ...

    def sharing(self) -> contextlib.AbstractContextManager[Callable[[], int | None]]:
        """While somebody looks ahead; gives the bytes that may be held, None for any number."""

    def close(self) -> None: ...


def open_shelf(index_path: Path, index: Index, cache_bytes: int | None) -> Shelf:
    """Beside the index, or at its location through this machine's cache of at most `cache_bytes` (None: no limit)."""
    row_bytes = sample_table.dtype_of(index).itemsize
    if index.location is None:
        return LocalShelf(index_path, row_bytes)
    return RemoteShelf(index.location, Cache(default_folder(), cache_bytes), row_bytes)


@contextlib.contextmanager
def opened(shelf: Shelf, shard: Shard) -> Iterator[tuple[np.ndarray, Path]]:
    """The table of the shard's samples that are to be used, and its tar, which stays as long."""
    table = sample_table.without_tombstones(shelf.table(shard), shard)
    path = shelf.hold(shard)
    try:
        yield table, path
    finally:
        shelf.release(shard)


@contextlib.contextmanager
def fetched_anew(location: str, shard: Shard) -> Iterator[tuple[np.ndarray, Path]]:
    """The table with its tombstones and the tar as the store has them now, whatever the cache holds."""
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".anew-", dir=folder) as place:
        tar, table = Path(place, "tar"), Path(place, "npy")
        for path, name, num_bytes, sha256 in (
            (table, shard.table_object, None, shard.table_sha256),
            (tar, shard.tar_object, shard.num_bytes, shard.sha256),
        ):
            path.touch()
            what = f"{shard.name}.{path.name}"
            fetch(stores.join(location, name), path, what=what, num_bytes=num_bytes, sha256=sha256)
        yield sample_table.parse_sample_table(table.read_bytes(), shard, shard.table_object), tar


class LocalShelf:
    """Beside the index."""

    is_remote = False

    def __init__(self, index_path: Path, row_bytes: int):
        self._index_path, self.row_bytes = index_path, row_bytes
        self._mutex = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._verified: dict[str, _FileState] = {}

    def table(self, shard: Shard) -> np.ndarray:
        return sample_table.read_stored_table(self._index_path, shard)

    def hold(self, shard: Shard, *, urgent: bool = True) -> Path:
        os.close(self.open(shard))
        return self._path(shard)

    def open(self, shard: Shard) -> int:
        """What is verified is the file behind the descriptor: by its bytes once, and later by being the same file."""
        with self._mutex:
            lock = self._locks[shard.name]
        with lock:  # others that want the same shard wait
            known = self._verified.get(shard.name)
            try:
                descriptor = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as exc:
                raise ArtifactError(_missing(self._path(shard), was_there=known is not None)) from exc
            try:
                found = _state(descriptor)
                if found != known:
                    _verify(descriptor, self._path(shard), shard, was_whole=known is not None)
                    self._verified[shard.name] = found
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def release(self, shard: Shard) -> None:
        pass

    def sharing(self) -> contextlib.AbstractContextManager[Callable[[], None]]:
        return contextlib.nullcontext(lambda: None)

    def close(self) -> None:
        pass

    def _path(self, shard: Shard) -> Path:
        return self._index_path.parent / f"{shard.name}.tar"


class RemoteShelf:
    """At an address, through a cache."""

    is_remote = True

    def __init__(self, location: str, cache: Cache, row_bytes: int):
        self._location, self._cache, self.row_bytes = location, cache, row_bytes
        self._closing = threading.Event()

    def table(self, shard: Shard) -> np.ndarray:
        path = self._hold_table(shard, urgent=True)
        try:
            return sample_table.parse_sample_table(path.read_bytes(), shard, str(path))
        finally:
            self._cache.release(shard.table_object)

    def hold(self, shard: Shard, *, urgent: bool = True) -> Path | None:
        """With its table, which is needed as long."""
        if self._hold_table(shard, urgent=urgent) is None:
            return None
        path = None
        bring = partial(
            self._fetch, shard.tar_object, what=f"{shard.name}.tar", num_bytes=shard.num_bytes, sha256=shard.sha256
        )
        is_whole = partial(_has_sha256, sha256=shard.sha256)
        try:
            path = self._cache.hold(shard.tar_object, shard.num_bytes, bring, is_whole, urgent=urgent)
        finally:
            if path is None:
                self._cache.release(shard.table_object)
        return path

    def open(self, shard: Shard) -> int:
        """A file that is held is nobody's to change."""
        path = self.hold(shard)
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.release(shard)
            raise

    def release(self, shard: Shard) -> None:
        self._cache.release(shard.tar_object)
        self._cache.release(shard.table_object)

    def sharing(self) -> contextlib.AbstractContextManager[Callable[[], int | None]]:
        return self._cache.sharing()

    def close(self) -> None:
        self._closing.set()
        self._cache.close()

    def _hold_table(self, shard: Shard, *, urgent: bool) -> Path | None:
        what = f"{shard.name}.npy"
        bring = partial(self._fetch, shard.table_object, what=what, num_bytes=None, sha256=shard.table_sha256)
        is_whole = partial(_has_sha256, sha256=shard.table_sha256)
        room_bytes = shard.num_stored * self.row_bytes
        return self._cache.hold(shard.table_object, room_bytes, bring, is_whole, urgent=urgent)

    def _fetch(self, name: str, path: Path, **expected: Any) -> None:
        fetch(stores.join(self._location, name), path, **expected, is_over=self._closing.is_set)


class _FileState(NamedTuple):
    """Another file, or another content by any ordinary write, has another one."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int


def _state(descriptor: int) -> _FileState:
    found = os.fstat(descriptor)
    return _FileState(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _verify(descriptor: int, path: Path, shard: Shard, *, was_whole: bool) -> None:
    """Raises ArtifactError for other bytes than the index lists; `was_whole` when this process has read them there."""
    with open(descriptor, "rb", closefd=False) as file:
        num_bytes, sha256 = os.fstat(descriptor).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if (num_bytes, sha256) == (shard.num_bytes, shard.sha256):
        return
    if was_whole:
        raise ArtifactError(_taken_away(path, "changed"))
    raise ArtifactError(
        f"{path} was changed after it was written: {num_bytes} bytes with sha256 {sha256[:12]}, the index "
        f"says {shard.num_bytes} with {shard.sha256[:12]}; remove data/shards and run `convoy shard` again."
    )


def _missing(path: Path, *, was_there: bool) -> str:
    return _taken_away(path, "removed") if was_there else f"{path} is missing; run `convoy shard` (or `dvc checkout`)."


def _taken_away(path: Path, how: str) -> str:
    return (
        f"{path} was {how} while the shards were read; let training end before the shards are made anew, and run the "
        "same command again."
    )


def _has_sha256(path: Path, sha256: str) -> bool:
    return artifacts.file_sha256(path) == sha256

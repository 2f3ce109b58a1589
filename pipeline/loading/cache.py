"""Files of a store on this machine's disk, shared by all processes that use the same folder, within a limit.

A file is named by its content and appears whole, by rename. Who fetches it and who uses it is said by locks on bytes of
one lock file (Linux's open file description locks): the kernel gives them up with their holder, whatever ends it. The
least recently used files go first, and none that is in use.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import ArtifactError, StorageError

FOLDER_VARIABLE = "CONVOY_CACHE"

POLL_SECONDS = 0.05
"""Between looks at a lock that another process holds."""

_NAME = re.compile(r"[0-9a-f]{64}\.(tar|npy)")
_PARTIAL = ".partial"

_ROOM = 0
"""The byte of whoever makes room or takes it."""

_SLOTS = range(1, 257)
"""A byte for each process that fetches ahead; they are counted."""


def default_folder() -> Path:
    """CONVOY_CACHE, or the user's cache folder, or, where there is none to write to, one under the temporary folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).absolute()
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convoy"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.gettempdir()) / f"convoy-{os.getuid()}"


class Cache:
    """Files of one folder, held while they are used. Safe to use from many threads."""

    def __init__(self, folder: Path, limit_bytes: int | None):
        """`limit_bytes` None is no limit. Raises StorageError when the folder cannot be written."""
        self.folder, self.limit_bytes = folder, limit_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.getuid() and not os.environ.get(FOLDER_VARIABLE):
                raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
            self._locks = os.open(folder / ".locks", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StorageError(
                f"The shard cache {folder} cannot be used ({exc.strerror}); name a folder that can be written in "
                f"{FOLDER_VARIABLE}."
            ) from exc
        self._mutex = threading.Lock()
        self._names = Counter()
        """Names that threads of this process hold or are after: their locks are this process's."""
        self._name_locks: dict[str, threading.Lock] = {}
        self._held: Counter[str] = Counter()
        self._verified: dict[str, int] = {}
        self._closing = threading.Event()

    def hold(
        self,
        name: str,
        num_bytes: int,
        fetch: Callable[[Path], None],
        is_whole: Callable[[Path], bool],
        *,
        urgent: bool,
    ) -> Path | None:
        """The file's path; it stays until `release`. `fetch` fills it where it is not here, or not whole.

        None when the limit leaves no room for `num_bytes`; `urgent` takes the room all the same.
        """
        if not _NAME.fullmatch(name):
            raise ArtifactError(f"{name!r} is no name of a cached file; the index was changed, make it anew.")
        with self._mutex:
            self._names[name] += 1
            lock = self._name_locks.setdefault(name, threading.Lock())
        path = None
        try:
            with lock:
                if not self._held[name]:
                    with self._mutex:
                        self._wait_for_lock(fcntl.F_RDLCK, _use_byte(name))
                if self._held[name] or self._bring(name, num_bytes, fetch, is_whole, urgent):
                    self._held[name] += 1
                    path = self.folder / name
        finally:
            if path is None:
                self._forget(name)
        return path

    def release(self, name: str) -> None:
        """Gives up one `hold`."""
        with self._name_locks[name]:
            self._held[name] -= 1
            with contextlib.suppress(OSError):
                os.utime(self.folder / name, ns=(time.time_ns(),) * 2)  # the kernel's own clock ticks coarsely
        self._forget(name)

    @contextlib.contextmanager
    def sharing(self) -> Iterator[Callable[[], int | None]]:
        """Among the processes that fetch ahead into this folder; gives the bytes that are one's share right now."""
        for slot in _SLOTS:
            if self._try_lock(fcntl.F_WRLCK, slot):
                break
        try:
            yield lambda: None if self.limit_bytes is None else self.limit_bytes // (1 + self._num_others(slot))
        finally:
            self._unlock(slot)

    def close(self) -> None:
        """Gives up every hold."""
        self._closing.set()
        with self._mutex:
            locks, self._locks = self._locks, -1
            os.close(locks)

    def _forget(self, name: str) -> None:
        with self._mutex:
            self._names[name] -= 1
            if self._names[name] == 0:
                del self._names[name], self._name_locks[name]
                self._held.pop(name, None)
                self._unlock(_use_byte(name))

    def _bring(self, name: str, num_bytes: int, fetch: Callable, is_whole: Callable, urgent: bool) -> bool:
        if self._is_here(name, is_whole):
            return True
        byte = _fetch_byte(name)
        self._wait_for_lock(fcntl.F_WRLCK, byte)
        try:
            if self._is_here(name, is_whole):
                return True  # another process fetched it meanwhile
            partial = self.folder / f"{name}{_PARTIAL}"
            if not self._take_room(partial, num_bytes, urgent):
                return False
            try:
                fetch(partial)
                partial.replace(self.folder / name)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            self._verified[name] = (self.folder / name).stat().st_ino
            return True
        finally:
            self._unlock(byte)

    def _is_here(self, name: str, is_whole: Callable[[Path], bool]) -> bool:
        """Whether the file lies here and is what it should be; its bytes are looked at once by each process."""
        path = self.folder / name
        try:
            number = path.stat().st_ino
            if self._verified.get(name) != number:
                if not is_whole(path):
                    return False
                self._verified[name] = number
        except FileNotFoundError:
            return False
        return True

    # Room.

    def _take_room(self, partial: Path, num_bytes: int, urgent: bool) -> bool:
        """Makes a file of this size, so that everybody counts it, once older ones have made room for it."""
        with self._mutex:
            self._wait_for_lock(fcntl.F_WRLCK, _ROOM)
            try:
                if not self._make_room(num_bytes) and not urgent:
                    return False
                with partial.open("wb") as file:
                    file.truncate(num_bytes)
            finally:
                self._unlock(_ROOM)
        return True

    def _make_room(self, num_bytes: int) -> bool:
        if self.limit_bytes is None:
            return True
        files = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                if not entry.name.startswith("."):
                    files.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.name))
        excess = sum(size for _, size, _ in files) + num_bytes - self.limit_bytes
        for _, size, name in sorted(files):
            if excess <= 0:
                break
            if self._evict(name):
                excess -= size
        return excess <= 0

    def _evict(self, name: str) -> bool:
        """Removes a file that nobody uses, or the remains of a fetch that was killed."""
        content = name.removesuffix(_PARTIAL)
        if content in self._names or not _NAME.fullmatch(content):
            return False
        byte = _fetch_byte(content) if name.endswith(_PARTIAL) else _use_byte(content)
        if not self._try_lock(fcntl.F_WRLCK, byte):
            return False
        try:
            (self.folder / name).unlink(missing_ok=True)
        finally:
            self._unlock(byte)
        return True

    # Locks on bytes.

    def _wait_for_lock(self, kind: int, byte: int) -> None:
        while not self._try_lock(kind, byte):
            if self._closing.wait(POLL_SECONDS):
                raise self._closed_error()

    def _try_lock(self, kind: int, byte: int) -> bool:
        try:
            self._ask(fcntl.F_OFD_SETLK, kind, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, byte: int) -> None:
        with contextlib.suppress(OSError, StorageError):  # closed: the kernel has given it up already
            self._ask(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, byte)

    def _num_others(self, own_slot: int) -> int:
        """A process's own locks never stand in its way, so that what does is another's."""
        others = (slot for slot in _SLOTS if slot != own_slot)
        return sum(self._is_locked(slot) for slot in others) if self._is_locked_in(_SLOTS) else 0

    def _is_locked(self, byte: int) -> bool:
        return self._is_locked_in(range(byte, byte + 1))

    def _is_locked_in(self, span: range) -> bool:
        answer = self._ask(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, span.start, len(span))
        return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK

    def _ask(self, command: int, kind: int, start: int, length: int = 1) -> bytes:
        """The kernel's answer. Raises StorageError once the cache is closed: its threads may live a little longer."""
        locks = self._locks
        if locks < 0:
            raise self._closed_error()
        return fcntl.fcntl(locks, command, _flock(kind, start, length))

    def _closed_error(self) -> StorageError:
        return StorageError(f"The shard cache {self.folder} was closed while a file was waited for.")


_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)


def _use_byte(name: str) -> int:
    return _SLOTS.stop + 2 * (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 3)


def _fetch_byte(name: str) -> int:
    return _use_byte(name) + 1

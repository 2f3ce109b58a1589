"""Decoded images of earlier epochs, kept in a memory-mapped file that a machine's ranks share.

An image is kept whole, at each scale at which it was asked for, until the limit is reached; the others are decoded as
ever. What is served are the very pixels of decoding. Entries carry checksums, so a file that was damaged, or is half
written after a power cut, costs decoding again and no more. Safe to use from many threads and processes.
"""

import contextlib
import fcntl
import mmap
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pipeline.imaging.region import SHRINKS, Region, shrunk_size
from pipeline.loading.keyed import key_of

FOLDER = ".decoded"
"""In the cache folder; hidden from what counts the shards there."""

CHUNK_BYTES = 16 * 1024**2
"""What a process takes of the file at a time, and no more than a hundredth of it; what it leaves of that is lost."""

_FORMAT = "decoded images 1"
_HEADER_BYTES = 64
_ENTRY = np.dtype(
    [("offset", "<u8"), ("height", "<u4"), ("width", "<u4"), ("can_shrink", "<u4"), ("checksum", "<u4"),
     ("seal", "<u8")]
)  # fmt: skip
"""Where an image lies at one scale; height and width are those of the whole size. Seal 0: no entry."""

_ABSENT, _VERIFIED = 0, 1


class DecodedCache:
    """Images by sample number and scale."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        num_samples: int,
        num_channels: int,
        pixel_dtype: str,
        limit_bytes: int,
        say: Callable[[str], None],
    ):
        """`digest` names the samples and their numbers; what `folder` holds of others goes, unless it is in use.

        `say` hears, once, that there is no cache, or that it grows no more, because of the disk.
        """
        self._num_channels, self._dtype = num_channels, np.dtype(pixel_dtype)
        self._say, self._lock = say, threading.RLock()
        self._states = np.zeros((num_samples, len(SHRINKS)), np.uint8)
        self._next = self._end = 0
        self.grows = True
        """False once the disk or the limit has no room."""
        self._key = key_of(_FORMAT, digest, num_samples, num_channels, pixel_dtype, limit_bytes)
        self._stack = contextlib.ExitStack()
        try:
            self._open(folder / FOLDER / f"{self._key:016x}", num_samples, limit_bytes)
        except OSError as exc:
            self._stack.close()
            self._entries = None
            self._stop(exc)

    @property
    def is_usable(self) -> bool:
        return self._entries is not None

    @property
    def pixels(self) -> np.ndarray:
        """All that is kept, bytes, to be read only."""
        return self._pixels

    def has_none(self, numbers: np.ndarray) -> np.ndarray:
        """Of which samples there is nothing at any scale, verified or not; bool [len(numbers)]."""
        return (self._entries[numbers]["seal"] == 0).all(axis=1)

    def look_up(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of N samples: where a verified image begins at each scale, or -1, int64 [N, scales]; its whole size, [N, 2],
        and whether it can be shrunk, bool [N], which mean nothing where there is no image."""
        verified = self._states[numbers] == _VERIFIED
        entries = self._entries[numbers]
        one = entries[np.arange(len(numbers)), verified.argmax(axis=1)]
        offsets = np.where(verified, entries["offset"].astype(np.int64), -1)
        return offsets, np.stack([one["height"], one["width"]], axis=1), one["can_shrink"] != 0

    def cut(self, offset: int, size: tuple[int, int], region: Region) -> np.ndarray:
        """[region.height, region.width, C], to be read only, of the image of this whole size that begins there."""
        pixel = self._num_channels * self._dtype.itemsize
        row = shrunk_size(*size, region.shrink)[1] * pixel
        shape = (region.height, region.width, self._num_channels)
        first = offset + region.top * row + region.left * pixel
        return np.ndarray(shape, self._dtype, self._pixels, first, (row, pixel, self._dtype.itemsize))

    def find(self, number: int, size: tuple[int, int], shrink: int) -> int:
        """Where a whole image begins that was kept by another process or in another run, or -1. Compares checksums."""
        scale = SHRINKS.index(shrink)
        entry = self._entries[number, scale].copy()
        if entry["seal"] == 0 or entry["seal"] != self._seal(entry, number, scale):
            return -1
        num_bytes = self._num_bytes(size, shrink)
        offset = int(entry["offset"])
        if (entry["height"], entry["width"]) != size or offset + num_bytes > len(self._pixels):
            return -1
        if zlib.crc32(self._pixels[offset : offset + num_bytes]) != entry["checksum"]:
            return -1
        self._states[number, scale] = _VERIFIED
        return offset

    def keep(self, number: int, size: tuple[int, int], shrink: int, can_shrink: bool, image_HWC: np.ndarray) -> None:
        """Keeps a whole image at this scale, contiguous, where there is room."""
        try:
            offset = self._write(image_HWC)
        except OSError as exc:
            self._stop(exc)
            return
        if offset is None:
            return
        scale = SHRINKS.index(shrink)
        entry = np.zeros((), _ENTRY)
        entry["offset"], entry["checksum"], entry["can_shrink"] = offset, zlib.crc32(image_HWC), can_shrink
        entry["height"], entry["width"] = size
        seal = self._seal(entry, number, scale)
        self._entries[number, scale] = entry
        self._entries[number, scale]["seal"] = seal  # last: who reads an entry without it takes it for none
        self._states[number, scale] = _VERIFIED

    def close(self) -> None:
        """What was cut stays good; nothing more is kept."""
        with self._lock:
            self.grows = False
            self._stack.close()

    def _open(self, folder: Path, num_samples: int, limit_bytes: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder.parent / "opening", fcntl.LOCK_EX):
            _remove_others(folder)
            self._stack.enter_context(_locked(folder / "in-use", fcntl.LOCK_SH))
            table, pixels = folder / "table", folder / "pixels"
            table_bytes = _HEADER_BYTES + num_samples * len(SHRINKS) * _ENTRY.itemsize
            header = np.array([self._key, limit_bytes, 0, ~np.uint64(0)], "<u8").tobytes()
            if not (_is_table(table, header[:16], table_bytes) and pixels.exists()):
                for path, num_bytes, content in ((pixels, limit_bytes, b""), (table, table_bytes, header)):
                    partial = path.with_suffix(".partial")
                    with partial.open("wb") as file:
                        file.write(content)
                        file.truncate(num_bytes)
                    partial.replace(path)
            if pixels.stat().st_size != limit_bytes:  # cut off; the checksums find what is missing
                os.truncate(pixels, limit_bytes)
        self._table_file = os.open(table, os.O_RDWR | os.O_CLOEXEC)
        self._stack.callback(os.close, self._table_file)
        os.posix_fallocate(self._table_file, 0, table_bytes)  # a page without room on the disk would end the process
        self._file = os.open(pixels, os.O_RDWR | os.O_CLOEXEC)
        self._stack.callback(os.close, self._file)
        mapped = mmap.mmap(self._table_file, table_bytes)
        self._header = np.frombuffer(mapped, "<u8", 4)
        """Key, limit, bytes that were taken, and these inverted: what was taken twice would be served to both."""
        self._entries = np.frombuffer(mapped, _ENTRY, offset=_HEADER_BYTES).reshape(num_samples, len(SHRINKS))
        self._pixels = np.frombuffer(mmap.mmap(self._file, limit_bytes, access=mmap.ACCESS_READ), np.uint8)

    def _write(self, image_HWC: np.ndarray) -> int | None:
        """Where the image lies now; None where there is no room."""
        with self._lock:  # so that nobody writes to a descriptor that was closed, and is another file's by now
            offset = self._take(image_HWC.nbytes) if self.grows else None
            if offset is not None:
                rest = image_HWC.data.cast("B")
                while rest:  # a disk that fills up takes a part, and then says why it takes no more
                    rest = rest[os.pwrite(self._file, rest, offset + image_HWC.nbytes - len(rest)) :]
            return offset

    def _take(self, num_bytes: int) -> int | None:
        """Where so many bytes may be written; None when the limit is reached."""
        if self._next + num_bytes > self._end:
            limit_bytes = len(self._pixels)
            fcntl.flock(self._table_file, fcntl.LOCK_EX)
            try:
                taken = int(self._header[2])
                # What is left of the last chunk is of use where nobody else took what follows it.
                first = self._next if taken == self._end else taken
                if first + num_bytes > limit_bytes or self._header[3] != ~self._header[2]:
                    self.grows = False
                    return None
                chunk_bytes = max(num_bytes, min(CHUNK_BYTES, limit_bytes // 100))
                self._next, self._end = first, min(limit_bytes, first + chunk_bytes)
                self._header[2:] = self._end, ~np.uint64(self._end)
            finally:
                fcntl.flock(self._table_file, fcntl.LOCK_UN)
        offset = self._next
        self._next += num_bytes
        return offset

    def _num_bytes(self, size: tuple[int, int], shrink: int) -> int:
        height, width = shrunk_size(*size, shrink)
        return height * width * self._num_channels * self._dtype.itemsize

    def _seal(self, entry: np.void, number: int, scale: int) -> int:
        """Over all of the entry but itself; never 0."""
        return key_of(self._key, number, scale, *entry.item()[:-1]) or 1

    def _stop(self, exc: OSError) -> None:
        with self._lock:
            was_growing, self.grows = self.grows, False
        if was_growing:
            self._say(
                f"The cache of decoded images takes no more ({exc.strerror}); training goes on and decodes what is not "
                "in it. Make room, or lower loading.decoded_cache_bytes."
            )


def _is_table(path: Path, begin: bytes, num_bytes: int) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        found = file.read(_HEADER_BYTES)
        if path.stat().st_size == num_bytes and found.startswith(begin):
            taken, inverted = np.frombuffer(found, "<u8", 2, len(begin))
            return bool(inverted == ~taken)
    return False


@contextlib.contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    """Holds a lock that goes with its holder. Raises BlockingIOError where LOCK_NB is asked for and it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _remove_others(folder: Path) -> None:
    """The caches of other samples, which would never be asked again; not those that somebody uses."""
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            with contextlib.suppress(OSError), _locked(other / "in-use", fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(other)

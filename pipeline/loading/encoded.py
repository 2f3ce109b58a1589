"""One encoded image, decoded in part or whole, and the memory in which a thread does it.

Memory is used again: what the system hands out is cleared page by page, which costs a tenth of decoding a small photo.
C channels.
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np

from pipeline.errors import ArtifactError, ImageError
from pipeline.imaging.decode import decode_region, read_size
from pipeline.imaging.jpeg import read_jpeg_header
from pipeline.imaging.region import MIN_SHRUNK_PX, Region

SCRATCH_BYTES = 8 * 1024**2
"""A thread's memory for one decoded image, such as 1632 x 1632; larger ones get memory of their own. As much again is
for what is encoded."""

_scratch = threading.local()


class Pixels:
    """One encoded image; its size is known before it is decoded."""

    def __init__(self, data: bytes, name: str = "An image"):
        """`name` begins what is said of an image that cannot be decoded. Raises ArtifactError."""
        self._data, self._name = data, name
        self._header = read_jpeg_header(data)
        with self._naming():
            self.size = read_size(data) if self._header is None else self._header.upright_size
            """(height, width)."""

    @property
    def can_shrink(self) -> bool:
        """Whether it can be decoded at less than its size."""
        return self._header is not None and min(self.size) >= MIN_SHRUNK_PX

    def decoded(self, region: Region) -> np.ndarray:
        """[region.height, region.width, C], good until this thread decodes another; see `imaging.decode`.

        Raises ArtifactError.
        """
        started = time.perf_counter()
        with self._naming():
            image_HWC = decode_region(self._data, self._header, region, memory_to_decode_in())
        _scratch.decode_seconds = getattr(_scratch, "decode_seconds", 0.0) + time.perf_counter() - started
        return image_HWC

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except ImageError as exc:
            raise ArtifactError(
                f"{self._name} cannot be decoded: {exc} It was decoded when it was sharded; remove data/shards and run "
                "`convoy shard` again, which rejects what cannot be decoded."
            ) from exc


def memory_to_decode_in() -> np.ndarray:
    """This thread's, uint8 [num_bytes]."""
    if not hasattr(_scratch, "memory"):
        _scratch.memory = np.empty(SCRATCH_BYTES, np.uint8)
    return _scratch.memory


def memory_to_read_into(num_bytes: int) -> np.ndarray:
    """uint8, no less than [num_bytes]; this thread's where that is enough."""
    if num_bytes > SCRATCH_BYTES:
        return np.empty(num_bytes, np.uint8)
    if not hasattr(_scratch, "encoded"):
        _scratch.encoded = np.empty(SCRATCH_BYTES, np.uint8)
    return _scratch.encoded


def take_decode_seconds() -> float:
    """What this thread spent in decoding since it was asked last."""
    seconds, _scratch.decode_seconds = getattr(_scratch, "decode_seconds", 0.0), 0.0
    return seconds

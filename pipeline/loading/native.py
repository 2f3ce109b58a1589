"""Pieces of a batch made by native code: read, decoded, cut out, resized, flipped and moved with the GIL released.

What that is not for, or finds broken, is left: then the image is made by Python, which says what is wrong with it.
N images, which have places in the batch; B places in all.
"""

import time
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Index
from pipeline.imaging import crops
from pipeline.imaging.decode import MAX_PIXELS
from pipeline.imaging.region import MIN_SHRUNK_PX, SHRINKS
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.encoded import memory_to_decode_in, memory_to_read_into
from pipeline.loading.read import SplitReader
from pipeline.loading.render import Render


class Made(NamedTuple):
    """What native code did of a piece."""

    left: dict[int, bytes | None]
    """Places of images that it did not make, and their encoded bytes where they were read."""
    read_seconds: float = 0.0
    decode_seconds: float = 0.0


def is_native_for(index: Index, side_px: int) -> bool:
    """Whether native code may be asked for such squares of the index's images."""
    is_rgb_jpeg = (index.num_channels, index.pixel_dtype, index.image_extension) == (3, "uint8", "jpg")
    return is_rgb_jpeg and side_px <= crops.MAX_SIDE_PX and crops.native().is_used


class NativePieces:
    """Of one batch. Several threads may make pieces side by side."""

    def __init__(
        self,
        reader: SplitReader,
        decoded: DecodedCache | None,
        numbers_B: np.ndarray,
        shards_B: np.ndarray,
        rows_B: np.ndarray,
        render: Render,
        out_BHWC: np.ndarray,
    ):
        """Shards and rows are what the reader says of the numbers."""
        self._reader, self._decoded, self._render, self._out_BHWC = reader, decoded, render, out_BHWC
        self._numbers_B, self._shards_B, self._rows_B = numbers_B, shards_B, rows_B

    def make(self, places_N: np.ndarray) -> Made:
        """Writes what it can of these images into the batch's array."""
        if self._decoded is None:
            return self._make_from_jpegs(places_N)
        left_N = self._make_from_kept(places_N)
        if self._decoded.grows or not len(left_N):
            return Made(dict.fromkeys(left_N.tolist()))  # to be kept, which is Python's work
        has_none_N = self._decoded.has_none(self._numbers_B[left_N])
        made = self._make_from_jpegs(left_N[has_none_N])
        return made._replace(left=dict.fromkeys(left_N[~has_none_N].tolist()) | made.left)

    def _make_from_jpegs(self, places_N: np.ndarray) -> Made:
        if not len(places_N):
            return Made({})
        started = time.perf_counter()
        crops_N, memory = self._read(places_N)
        read_seconds = time.perf_counter() - started
        heights_N, widths_N = crops_N["height"].astype(np.int64), crops_N["width"]
        crops_N["can_shrink"] = np.minimum(heights_N, widths_N) >= MIN_SHRUNK_PX
        known = crops_N[(heights_N > 0) & (heights_N * widths_N <= MAX_PIXELS)]
        decode_seconds = 0.0
        if len(known):
            self._render.plan(known)
            decode_seconds = crops.cut_jpegs(known, memory, memory_to_decode_in(), self._out_BHWC)
        made_M = self._finish(known)
        left: dict[int, bytes | None] = {}
        for crop in crops_N[~np.isin(places_N, made_M)] if len(made_M) < len(places_N) else ():
            first, is_read = int(crop["offset"]), crop["height"] != crops.UNREAD
            left[int(crop["place"])] = memory[first : first + int(crop["num_bytes"])].tobytes() if is_read else None
        return Made(left, read_seconds, decode_seconds)

    def _read(self, places_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crops with what the files say, and the memory that holds the encoded images."""
        rows_N = self._rows_B[places_N]
        sizes_N = rows_N["image_bytes"].astype(np.int64)
        ends_N = sizes_N.cumsum()
        crops_N = np.zeros(len(places_N), crops.CROP)
        crops_N["place"], crops_N["file_offset"], crops_N["num_bytes"] = places_N, rows_N["image_offset"], sizes_N
        crops_N["offset"], crops_N["height"] = ends_N - sizes_N, crops.UNREAD
        memory = memory_to_read_into(int(ends_N[-1]))
        self._reader.read_images(self._shards_B[places_N], crops_N, memory)
        return crops_N, memory

    def _make_from_kept(self, places_N: np.ndarray) -> np.ndarray:
        """Makes those that are known to be kept decoded; places of the others."""
        offsets_NS, sizes_N2, can_shrink_N = self._decoded.look_up(self._numbers_B[places_N])
        is_known_N = offsets_NS.max(axis=1) >= 0
        if not is_known_N.any():
            return places_N
        known = np.zeros(int(is_known_N.sum()), crops.CROP)
        known["place"], known["can_shrink"] = places_N[is_known_N], can_shrink_N[is_known_N]
        known["height"], known["width"] = sizes_N2[is_known_N].T
        self._render.plan(known)
        scales = np.searchsorted(SHRINKS, known["shrink"])
        # Where this scale is not kept the offset is -1, and the crop is left.
        known["offset"] = offsets_NS[is_known_N][np.arange(len(known)), scales]
        crops.cut_pixels(known, self._decoded.pixels, self._out_BHWC)
        made_M = self._finish(known)
        return places_N[:0] if len(made_M) == len(places_N) else places_N[~np.isin(places_N, made_M)]

    def _finish(self, crops_N: np.ndarray) -> np.ndarray:
        """Places of those that were made."""
        made = crops_N[crops_N["is_done"] != 0]
        self._render.finish(made, self._out_BHWC)
        return made["place"]

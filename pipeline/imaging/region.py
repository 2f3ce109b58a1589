"""A rectangle of a JPEG, decoded without what lies around it: the pixels of the whole decode, in less time.

`_jpeg.c` does it, over the system's libjpeg-turbo. It is built where a compiler and the headers are and used
where its pixels are those of the one decoder; everything else is decoded whole, and cut.
"""

from typing import NamedTuple

import numpy as np
import simplejpeg

from pipeline.imaging.jpeg import JpegHeader, decode_jpeg, read_jpeg_header

try:
    from pipeline.imaging import _crops
except ImportError:  # not built, or its library is gone
    _crops = None

SHRINKS = (1, 2, 4, 8)
"""What a JPEG can be decoded at, as parts of its size. libjpeg-turbo knows others, which have no fast transform."""

MIN_SHRUNK_PX = 16
"""Short side of the smallest image that is decoded at less than its size: below, sizes at unlike scales coincide."""

_WIDENED_PX = 2 * (2 + 31)
"""By so much what is decoded can be wider than what is wanted: margins, and blocks of at most 32 pixels."""

_SAMPLINGS = ("444", "422", "420", "440", "411", "Gray")
_PROBE_PX = (53, 75)


class Region(NamedTuple):
    """A rectangle, in pixels of the upright image at 1/shrink of its size."""

    top: int
    left: int
    height: int
    width: int
    shrink: int = 1

    def of(self, image_HWC: np.ndarray) -> np.ndarray:
        """The rectangle of an image that has this size already."""
        return image_HWC[self.top : self.top + self.height, self.left : self.left + self.width]


class Native(NamedTuple):
    is_used: bool
    why: str


def decode_jpeg_region(
    data: bytes, header: JpegHeader, region: Region, scratch: np.ndarray | None = None
) -> np.ndarray | None:
    """uint8 [region.height, region.width, 3], in `scratch` where that has room; None where the whole must be decoded.

    Damage outside the region may go unseen: whoever hands in bytes that were never decoded whole, decodes them whole.
    """
    if not native().is_used or not header.is_plain:
        return None
    return _decode(data, header, region, scratch)


def native() -> Native:
    """Whether the native code is used, and with what or why not. Looked at once a process."""
    global _native
    if _native is None:
        _native = _look_at_native()
    return _native


_native: Native | None = None


def _decode(data: bytes, header: JpegHeader, region: Region, scratch: np.ndarray | None) -> np.ndarray | None:
    top, left, height, width, shrink = region
    room = height * (width + _WIDENED_PX) * 3
    if scratch is None or scratch.size < room:
        scratch = np.empty(room, np.uint8)
    place = _crops.decode_region(data, header.height, header.width, shrink, top, left, height, width, scratch)
    if place is None:
        return None
    offset, pitch = place
    return np.ndarray((height, width, 3), np.uint8, scratch, offset, (pitch, 3, 1))


def _look_at_native() -> Native:
    if _crops is None:
        return Native(False, "not built")
    if not _agrees():
        return Native(False, f"the pixels of {_crops.LIBRARY} are not simplejpeg's")
    return Native(True, _crops.LIBRARY)


def _agrees() -> bool:
    """Whether the library gives, of noise in every sampling at every scale, the pixels that simplejpeg's gives."""
    noise_HWC = np.random.default_rng(0).integers(0, 256, (*_PROBE_PX, 3), np.uint8)
    for sampling in _SAMPLINGS:
        data = simplejpeg.encode_jpeg(noise_HWC, colorsubsampling=sampling)
        header = read_jpeg_header(data)
        for shrink in SHRINKS:
            whole_HWC = decode_jpeg(data, header, min(shrunk_size(*_PROBE_PX, shrink)) if shrink > 1 else 0)
            for region in (Region(0, 0, *whole_HWC.shape[:2], shrink), Region(2, 3, 4, 5, shrink)):
                region_HWC = _decode(data, header, region, None)
                if region_HWC is None or not np.array_equal(region_HWC, region.of(whole_HWC)):
                    return False
    return True


def shrunk_size(height: int, width: int, shrink: int) -> tuple[int, int]:
    """(height, width) of an image decoded at 1/shrink: libjpeg-turbo rounds up."""
    return -(-height // shrink), -(-width // shrink)

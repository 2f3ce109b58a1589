"""Crops of many images, cut, resized, flipped and moved into a batch by one call of native code, with the GIL released
once.

A row of CROP is one image: where it lies, its size, what is cut out and where that goes. The pixels are those of
`decode` and `resize`, and of flipping and moving what they give; crops that shrink to a half or less are left to these,
and so is whatever is no ordinary JPEG, or broken: `is_done` says what was written.
"""

import itertools

import numpy as np

from pipeline.imaging import region
from pipeline.imaging.region import Native
from pipeline.imaging.resizing import resize

CROP = np.dtype(
    [("file_offset", "<i8"), ("num_bytes", "<i8"), ("offset", "<i8"), ("place", "<i8"), ("descriptor", "<i4"),
     ("height", "<i4"), ("width", "<i4"), ("shrink", "<i4"), ("top", "<i4"), ("left", "<i4"), ("rows", "<i4"),
     ("columns", "<i4"), ("flip_horizontal", "<i4"), ("flip_vertical", "<i4"), ("down", "<i4"), ("right", "<i4"),
     ("is_done", "<i4"), ("can_shrink", "<i4")]
)  # fmt: skip
"""`Crop` of _crops.c. Height and width are those of the whole image; what follows them is as in `Region`. The square,
flipped, moves down and right by so many of its own pixels; what comes in at a border is what lies inside it, mirrored.
"""

UNREAD = -1
"""The height of an image that a file was too short for; 0 is that of what is left to other code."""

MAX_SIDE_PX = 1024
"""The largest squares that native code makes; as in _crops.h."""

_PROBE_SIDE_PX, _PROBE_MOVE = 36, (5, 9)
_PROBE_SIZES = ((1, 1), (20, 30), (30, 50), (90, 35), (36, 36), (5, 140), (54, 54), (36, 54), (54, 36), (71, 40))


def native() -> Native:
    """Whether native code cuts crops, and with what or why not. Looked at once a process."""
    global _native
    if not region.native().is_used:
        return region.native()
    if _native is None:
        _native = _look_at_native()
    return _native


_native: Native | None = None


def read_images(crops_N: np.ndarray, memory: np.ndarray) -> None:
    """Reads images from their files to their offsets in `memory`, uint8 [num_bytes], and their sizes from their
    headers."""
    region._crops.read_images(crops_N, memory)


def cut_jpegs(crops_N: np.ndarray, memory: np.ndarray, scratch: np.ndarray, out_BHWC: np.ndarray) -> float:
    """Writes crops of the JPEGs in `memory` to their places of `out_BHWC`, squares; the seconds that decoding took."""
    return region._crops.cut_jpegs(crops_N, memory, scratch, out_BHWC, out_BHWC.shape[1])


def cut_pixels(crops_N: np.ndarray, memory: np.ndarray, out_BHWC: np.ndarray) -> None:
    """Writes crops of the decoded images in `memory`, each at its shrunk size, to their places of `out_BHWC`."""
    region._crops.cut_pixels(crops_N, memory, out_BHWC, out_BHWC.shape[1])


def _look_at_native() -> Native:
    if getattr(region._crops, "CROP_BYTES", None) != CROP.itemsize:
        return Native(False, "built from other sources; run `make setup`")
    if not region._crops.CAN_STRETCH:
        return Native(False, "this processor has no AVX2")
    if not _agrees():
        return Native(False, "its pixels are not OpenCV's")
    return Native(True, "AVX2")


def _agrees() -> bool:
    """Whether noise is resized as `resize` does it, and turned over and moved. Of coarse noise, many sums lie halfway
    between two values."""
    random = np.random.default_rng(0)
    side_px, (down, right) = _PROBE_SIDE_PX, _PROBE_MOVE
    for (height, width), mask in itertools.product(_PROBE_SIZES, (0xFF, 0xC0)):
        noise_HWC = random.integers(0, 256, (height, width, 3), np.uint8) & np.uint8(mask)
        resized_HWC = resize(noise_HWC, side_px, side_px)
        if not np.array_equal(_cut(noise_HWC), resized_HWC):
            return False
        wide_HWC = np.pad(resized_HWC[:, ::-1], ((down, 0), (right, 0), (0, 0)), "reflect")
        turned_HWC = _cut(noise_HWC, flip_horizontal=1, down=down, right=right)
        is_left = turned_HWC is None and width > 2 * side_px
        if not is_left and not np.array_equal(turned_HWC, wide_HWC[:side_px, :side_px]):
            return False
    return True


def _cut(image_HWC: np.ndarray, **motion: int) -> np.ndarray | None:
    """All of an image as a square of the probe's side; None where it is left."""
    height, width = image_HWC.shape[:2]
    crops_N = np.zeros(1, CROP)
    whole = {"height": height, "width": width, "shrink": 1, "rows": height, "columns": width}
    for name, value in (whole | motion).items():
        crops_N[name] = value
    out_BHWC = np.empty((1, _PROBE_SIDE_PX, _PROBE_SIDE_PX, 3), np.uint8)
    cut_pixels(crops_N, image_HWC, out_BHWC)
    return out_BHWC[0] if crops_N["is_done"][0] else None

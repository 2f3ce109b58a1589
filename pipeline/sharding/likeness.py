"""What an image looks like, small enough to keep for every image of a set: a perceptual hash and a grey thumbnail.

The hash finds candidates quickly, the thumbnail says whether they are alike. Scaling, another encoding and a crop by
a few hundredths change both only a little. Whole numbers only: every machine comes to the same bits.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

from pipeline.imaging.channels import RGB, channels_of

HASH_CELLS = 32
NUM_FREQUENCIES = 8
"""Per axis: 8 x 8 make the 64 bits."""

THUMB_CELLS = 16

MAX_SAMPLED_PX = 8192
"""Along the long side, at most. Images are sampled alike in both directions unless one side is 32 times the other."""

LIKENESS_DTYPE = np.dtype(
    [
        ("hash", "<u8"),
        ("brightness", "<f4"),  # mean and standard deviation of the thumbnail, of 255 grey levels
        ("contrast", "<f4"),
        ("thumb", "u1", THUMB_CELLS**2),
    ]
)

_BIT_VALUES = np.uint64(1) << np.arange(NUM_FREQUENCIES**2, dtype=np.uint64)
_PLACES = (np.arange(HASH_CELLS) + 0.5) / HASH_CELLS
_COSINES = np.rint(4096 * np.cos(np.pi * np.arange(NUM_FREQUENCIES)[:, None] * _PLACES))
"""Whole numbers, as are the products with them: small enough for floats, which multiply faster."""


def likeness(image_HWC: np.ndarray) -> np.ndarray:
    """A scalar of LIKENESS_DTYPE for pixels of any channels: the grey of RGB is its luma, of others their mean.

    16 bits are taken over the range of the image's own thumbnail, because hardly a sensor uses all of them; so such an
    image is rarely dark, and blank only where it is the same everywhere.
    Source: the DCT hash of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", 3.2.1.
    """
    sums_HW = cv2.integral(_sampled_grey(image_HWC), sdepth=cv2.CV_64F)
    frequencies = (_COSINES @ np.floor(16 * _cell_means(sums_HW, HASH_CELLS)) @ _COSINES.T).ravel()
    found = np.zeros((), LIKENESS_DTYPE)
    # The first frequency is the brightness: it would say the same of nearly every image. Of the other 63, the median.
    is_set = frequencies > np.sort(frequencies[1:])[NUM_FREQUENCIES**2 // 2 - 1]
    is_set[0] = False
    found["hash"] = _BIT_VALUES[is_set].sum(dtype=np.uint64)
    cells_HW = _cell_means(sums_HW, THUMB_CELLS)
    if image_HWC.dtype == np.uint16:
        low, high = cells_HW.min(), cells_HW.max()
        cells_HW = (cells_HW - low) * (255 / (high - low)) if high > low else np.full_like(cells_HW, 128)
    found["thumb"] = (cells_HW + 0.5).astype(np.uint8).ravel()
    found["brightness"], found["contrast"] = _mean_and_deviation(found["thumb"].astype(np.int64))
    return found


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    """Of whole numbers, and so exact but for the last rounding: NumPy's take five times as long for so few."""
    count, total = len(values), int(values.sum())
    return total / count, math.sqrt((int(values @ values) * count - total * total) / (count * count))


def _sampled_grey(image_HWC: np.ndarray) -> np.ndarray:
    """[H, W] of the image's type, about four by four pixels a cell: of a large image every few pixels; those of a small
    one several times, so that a cell's edge may lie inside a pixel. Of a thin image's long side fewer: memory is
    bounded by MAX_SAMPLED_PX."""
    sides, enough = image_HWC.shape[:2], 4 * HASH_CELLS
    step = max(1, min(sides) // enough)
    times = min(-(-enough // min(sides)), HASH_CELLS)
    skip_y, skip_x = (-(-side_px // (step * MAX_SAMPLED_PX)) for side_px in sides)
    times_y, times_x = (min(times, max(1, MAX_SAMPLED_PX // side_px)) for side_px in sides)
    # Only what is too long is skipped before it is grey: of whole rows that takes the least time.
    grey_HW = np.ascontiguousarray(_grey(image_HWC[:: step * skip_y, ::skip_x])[:, ::step])
    if times_y == times_x == 1:
        return grey_HW
    return cv2.resize(grey_HW, None, fx=times_x, fy=times_y, interpolation=cv2.INTER_NEAREST)


def _grey(image_HWC: np.ndarray) -> np.ndarray:
    """[H, W] of the image's type."""
    if channels_of(image_HWC) == RGB:
        return cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
    if image_HWC.shape[2] == 1:
        return image_HWC[:, :, 0]
    num_channels = image_HWC.shape[2]
    return ((image_HWC.sum(axis=2, dtype=np.uint32) + num_channels // 2) // num_channels).astype(image_HWC.dtype)


def _cell_means(sums_HW: np.ndarray, num_cells: int) -> np.ndarray:
    """float64 [num_cells, num_cells]: of an integral image; cells of an image with fewer pixels than cells overlap."""
    (top, bottom), (left, right) = (_edges(side - 1, num_cells) for side in sums_HW.shape)
    rows = sums_HW[bottom] - sums_HW[top]
    return (rows[:, right] - rows[:, left]) / ((bottom - top)[:, None] * (right - left))


@lru_cache(maxsize=1024)
def _edges(side_px: int, num_cells: int) -> tuple[np.ndarray, np.ndarray]:
    cells = np.arange(num_cells)
    return cells * side_px // num_cells, -(-(cells + 1) * side_px // num_cells)

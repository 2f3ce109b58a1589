"""What augmentation does to a sample, decided by numbers in [0, 1) that belong to (seed, epoch, sample).

Deciding (`plan`) is vectorised over a batch and apart from doing (`apply`), which runs on one decoded image.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.imaging.resizing import crop_and_resize

_NUM_CROP_TRIES = 10
"""Tries for a crop of the wanted area and ratio that lies inside the image; torchvision's RandomResizedCrop makes as
many before it takes the largest centred one."""

NUM_DRAWS = 2 * _NUM_CROP_TRIES + 2 + 2 + 3
"""Per sample: area and ratio for each try, top and left, two flips, three of colour."""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, RGB


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image."""

    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    horizontal_flip: bool
    vertical_flip: bool
    color_jitter: float


@dataclass(frozen=True)
class View:
    """What happens to one image: a crop in pixels, flips, and factors of brightness, contrast and saturation."""

    top: int
    left: int
    height: int
    width: int
    flip_horizontal: bool
    flip_vertical: bool
    color: tuple[float, float, float] | None


def plan(augmentation: Augmentation, height: int, width: int, draws: np.ndarray) -> View:
    """The view of one image that these draws, float64 [NUM_DRAWS], decide."""
    tries, rest = draws[: 2 * _NUM_CROP_TRIES].reshape(_NUM_CROP_TRIES, 2), draws[2 * _NUM_CROP_TRIES :]
    box = _crop_box(augmentation, height, width, tries, rest[0], rest[1])
    jitter = augmentation.color_jitter
    return View(
        *box,
        flip_horizontal=bool(augmentation.horizontal_flip and rest[2] < 0.5),
        flip_vertical=bool(augmentation.vertical_flip and rest[3] < 0.5),
        color=tuple((1.0 + jitter * (2.0 * rest[4:7] - 1.0)).tolist()) if jitter else None,
    )


def apply(image_HWC: np.ndarray, view: View, side_px: int, out: np.ndarray) -> None:
    """Writes the view of a decoded image into `out`, uint8 [side_px, side_px, 3]."""
    crop_and_resize(image_HWC, view.top, view.left, view.height, view.width, side_px, out=out)
    if view.flip_horizontal:
        cv2.flip(out, 1, dst=out)
    if view.flip_vertical:
        cv2.flip(out, 0, dst=out)
    if view.color is not None:
        cv2.transform(out, _color_matrix(out, *view.color), dst=out)


def _crop_box(
    augmentation: Augmentation, height: int, width: int, tries: np.ndarray, u_top: float, u_left: float
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a crop with area uniform in crop_scale and ratio log-uniform in crop_ratio.

    Source: Szegedy et al. 2015 (inception crop), as in torchvision's RandomResizedCrop, its fallback included.
    """
    low, high = augmentation.crop_scale
    ratio_low, ratio_high = np.log(augmentation.crop_ratio)
    areas = height * width * (low + (high - low) * tries[:, 0])
    ratios = np.exp(ratio_low + (ratio_high - ratio_low) * tries[:, 1])
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    inside = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    if inside.any():
        first = int(np.argmax(inside))
        crop_height, crop_width = int(heights[first]), int(widths[first])
        top = int(u_top * (height - crop_height + 1))
        return top, int(u_left * (width - crop_width + 1)), crop_height, crop_width
    crop_width = min(width, max(1, round(height * augmentation.crop_ratio[1])))
    crop_height = min(height, max(1, round(width / augmentation.crop_ratio[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _color_matrix(image_HWC: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, contrast about the mean grey, saturation about each pixel's grey: one affine map, float64 [3, 4]."""
    mean_grey = float(_LUMA @ cv2.mean(image_HWC)[:3])
    blend = saturation * np.eye(3) + (1.0 - saturation) * np.tile(_LUMA, (3, 1))
    shift = np.full((3, 1), (1.0 - contrast) * brightness * mean_grey)
    return np.concatenate([contrast * brightness * blend, shift], axis=1)

"""What automatic augmentation does to pixels: one function a name, uint8 [H, W, 3] in, another array out.

They do what torchvision's functions of the same names do, by OpenCV with the GIL released; what a turned or moved
image does not cover is black.
"""

from collections.abc import Callable

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, RGB
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's ImageFilter.SMOOTH
_RAMP = np.arange(256)


def change(image_HWC: np.ndarray, name: str, amount: float) -> np.ndarray:
    """The image changed by one of OPERATIONS; `amount` is what that one says, and nothing to those without one."""
    return OPERATIONS[name](image_HWC, amount)


def _warp(image_HWC: np.ndarray, inverse_23: list[list[float]]) -> np.ndarray:
    """`inverse_23` leads from a pixel's centre in the result, seen from the image's centre, to one in the image."""
    height, width = image_HWC.shape[:2]
    matrix_23 = np.array(inverse_23)
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix_23[:, 2] += centre - matrix_23[:, :2] @ centre
    return cv2.warpAffine(image_HWC, matrix_23, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)


def _rotate(image_HWC: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return _warp(image_HWC, [[cos, -sin, 0.0], [sin, cos, 0.0]])


def _shear_x(image_HWC: np.ndarray, tangent: float) -> np.ndarray:
    """About the top left corner, as torchvision's augmentation does."""
    return _warp(image_HWC, [[1.0, tangent, tangent * image_HWC.shape[0] / 2], [0.0, 1.0, 0.0]])


def _shear_y(image_HWC: np.ndarray, tangent: float) -> np.ndarray:
    return _warp(image_HWC, [[1.0, 0.0, 0.0], [tangent, 1.0, tangent * image_HWC.shape[1] / 2]])


def _blend(image_HWC: np.ndarray, other: np.ndarray | float, factor: float) -> np.ndarray:
    """`factor` of the image and the rest of the other, which may be a single value."""
    return np.clip(image_HWC * np.float32(factor) + np.float32(1 - factor) * other, 0, 255).astype(np.uint8)


def _grey(image_HWC: np.ndarray) -> np.ndarray:
    return np.floor(image_HWC @ _LUMA.astype(np.float32))


def _sharpness(image_HWC: np.ndarray, amount: float) -> np.ndarray:
    smooth_HWC = image_HWC.copy()  # the rim keeps its pixels
    inner = (slice(1, -1), slice(1, -1))
    smooth_HWC[inner] = np.rint(cv2.filter2D(image_HWC, cv2.CV_32F, _SMOOTH))[inner]
    return _blend(image_HWC, smooth_HWC, 1 + amount)


def _solarize(image_HWC: np.ndarray, least: float) -> np.ndarray:
    return cv2.LUT(image_HWC, np.where(least <= _RAMP, 255 - _RAMP, _RAMP).astype(np.uint8))


def _autocontrast(image_HWC: np.ndarray, _amount: float) -> np.ndarray:
    tables = []
    for channel_HW in cv2.split(image_HWC):
        low, high, _, _ = cv2.minMaxLoc(channel_HW)
        scaled = np.clip((_RAMP - low) * (255 / (high - low)), 0, 255) if high > low else _RAMP
        tables.append(scaled.astype(np.uint8))
    return cv2.LUT(image_HWC, np.stack(tables, axis=-1)[None])


def _equalize(image_HWC: np.ndarray, _amount: float) -> np.ndarray:
    """Each channel's values spread evenly. Source: Pillow's ImageOps.equalize, rounding included."""
    tables = []
    for channel_HW in cv2.split(image_HWC):
        counts = np.bincount(channel_HW.ravel(), minlength=256)
        used = counts[counts > 0]
        step = int(used[:-1].sum()) // 255
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        tables.append((np.minimum((before + step // 2) // step, 255) if step else _RAMP).astype(np.uint8))
    return cv2.LUT(image_HWC, np.stack(tables, axis=-1)[None])


OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "identity": lambda image_HWC, _: image_HWC,
    "shear_x": _shear_x,  # tangent of the angle
    "shear_y": _shear_y,
    "translate_x": lambda image_HWC, px: _warp(image_HWC, [[1.0, 0.0, -float(int(px))], [0.0, 1.0, 0.0]]),
    "translate_y": lambda image_HWC, px: _warp(image_HWC, [[1.0, 0.0, 0.0], [0.0, 1.0, -float(int(px))]]),
    "rotate": _rotate,  # degrees, counter-clockwise
    "brightness": lambda image_HWC, amount: _blend(image_HWC, 0.0, 1 + amount),
    "color": lambda image_HWC, amount: _blend(image_HWC, _grey(image_HWC)[:, :, None], 1 + amount),
    "contrast": lambda image_HWC, amount: _blend(image_HWC, _grey(image_HWC).mean(), 1 + amount),
    "sharpness": _sharpness,
    "posterize": lambda image_HWC, bits: image_HWC & np.uint8(256 - (1 << (8 - int(bits)))),
    "solarize": _solarize,  # the least value that is inverted
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}

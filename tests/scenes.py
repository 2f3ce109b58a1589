"""Pictures that are as different as photographs: smooth blots of colour with some grain."""

import cv2
import numpy as np
import simplejpeg

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
"""By EXIF orientation: how the camera stored the upright scene."""


def scene(content: int, height: int = 150, width: int = 200) -> np.ndarray:
    """uint8 [height, width, 3]: equal for equal arguments, unlike for others."""
    random = np.random.default_rng(content)
    blots_HWC = sum(
        cv2.resize(random.normal(0, 60 / level, (3 * level, 4 * level, 3)), (width, height)) for level in (1, 2, 4)
    )
    return np.clip(128 + blots_HWC + random.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def as_jpeg(image_HWC: np.ndarray, quality: int = 92) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), quality=quality)

"""Pictures that are as different as photographs: smooth blots of colour with some grain."""

import cv2
import numpy as np
import simplejpeg


def scene(content: int, height: int = 150, width: int = 200) -> np.ndarray:
    """uint8 [height, width, 3]: equal for equal arguments, unlike for others."""
    random = np.random.default_rng(content)
    blots_HWC = sum(
        cv2.resize(random.normal(0, 60 / level, (3 * level, 4 * level, 3)), (width, height)) for level in (1, 2, 4)
    )
    return np.clip(128 + blots_HWC + random.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def as_jpeg(image_HWC: np.ndarray, quality: int = 92) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), quality=quality)

"""Small sets of images with any number of channels, as arrays and TIFFs."""

from pathlib import Path

import image_folders
import numpy as np
from tiffs import DEFLATE, tiff

from pipeline.imaging.arrays import encode_array


def noise(content: int, num_channels: int = 5, dtype: str = "uint8", height: int = 20, width: int = 24) -> np.ndarray:
    """Equal pixels for equal arguments; smooth enough to survive resizing."""
    random = np.random.default_rng(content)
    cells_HWC = random.integers(0, np.iinfo(dtype).max, (5, 6, num_channels), dtype)
    return np.ascontiguousarray(cells_HWC.repeat(height // 5, axis=0).repeat(width // 6, axis=1))


def two_classes(root: Path, num_per_class: int = 30, num_channels: int = 5, dtype: str = "uint8") -> Path:
    """`cat` as arrays, `dog` as TIFFs."""
    images = {number: noise(number, num_channels, dtype) for number in range(2 * num_per_class)}
    cats = {f"cat/{n:03d}.npy": encode_array(images[n]) for n in range(num_per_class)}
    dogs = {f"dog/{n:03d}.tif": tiff(images[n], compression=DEFLATE) for n in range(num_per_class, 2 * num_per_class)}
    return image_folders.fill(root, cats | dogs)

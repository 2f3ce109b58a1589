"""How many channels an image has and of how many bits, and what of them can be shown.

A picture is grey or colour and always comes as RGB of 8 bits; everything else keeps its channels and its bits.
"""

from typing import NamedTuple

import numpy as np

from pipeline.errors import ImageError

MAX_CHANNELS = 512
"""More than the bands of hyperspectral cameras: what has more is most often an array turned the wrong way."""


class Channels(NamedTuple):
    number: int
    dtype: str
    """`uint8` or `uint16`."""

    def __str__(self) -> str:
        return f"{self.number} channel{'s' if self.number > 1 else ''} of {self.dtype}"


RGB = Channels(3, "uint8")


def channels_of(image_HWC: np.ndarray) -> Channels:
    return Channels(image_HWC.shape[2], image_HWC.dtype.name)


def check_channels(image_HWC: np.ndarray, wanted: Channels) -> np.ndarray:
    """The image itself. Raises ImageError with the reason other_channels when it does not have the wanted ones."""
    found = channels_of(image_HWC)
    if found != wanted:
        raise ImageError(
            "other_channels",
            f"The image has {found}, the model was trained on {wanted}; give it images like those of its data set.",
        )
    return image_HWC


def as_rgb(image_HWC: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] for the eye: the first three channels, or the first one in grey where there are fewer.

    16 bits are stretched over the image's own range: sensors that use all of it are rare.
    """
    if channels_of(image_HWC) == RGB:
        return image_HWC
    shown_HWC = image_HWC[:, :, :3] if image_HWC.shape[2] >= 3 else image_HWC[:, :, :1]
    if shown_HWC.dtype == np.uint16:
        low, high = int(shown_HWC.min()), int(shown_HWC.max())
        shown_HWC = ((shown_HWC.astype(np.float32) - low) * (255 / max(1, high - low))).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown_HWC, (*shown_HWC.shape[:2], 3)))

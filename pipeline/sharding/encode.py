"""Bytes of a source image -> bytes that go into a shard. Every image is decoded here, by training's rules.

Pictures become JPEGs, images of other channels arrays. What already is what a shard should hold keeps its own bytes, so
that nothing is lost by encoding it again.
"""

from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

from pipeline.errors import ImageError
from pipeline.imaging.arrays import encode_array
from pipeline.imaging.channels import RGB, Channels, channels_of
from pipeline.imaging.decode import check_pixels, decode, read_kind, read_size
from pipeline.imaging.jpeg import JpegHeader, decode_brightness, read_jpeg_header
from pipeline.imaging.resizing import resize, size_at_short_side
from pipeline.sharding.likeness import likeness

NUM_CHANNELS = RGB.number
PIXELS_AT_ONCE = 65_536
MAX_JPEG_SIDE_PX = 65_500  # libjpeg's JPEG_MAX_DIMENSION
FULL_COLOR_BELOW_PX = 128
"""Short side under which a pixel of colour for four of brightness is missed more than its bytes are."""

SEEN_SHORT_SIDE_PX = 40
"""Of what an image that keeps its bytes is compared by. Measured on 300 photographs: as many copies are found as at
their full size."""


class ChannelSums(NamedTuple):
    """Whole numbers, so that adding them up gives the same in any order."""

    num_pixels: int
    values: tuple[int, ...]
    squares: tuple[int, ...]

    def __add__(self, other: "ChannelSums") -> "ChannelSums":
        return ChannelSums(
            self.num_pixels + other.num_pixels,
            tuple(a + b for a, b in zip(self.values, other.values, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def mean_and_std(self, largest: int = 255) -> tuple[list[float], list[float]]:
        """Per channel, pixels scaled to 0..1 by their largest possible value."""
        count = self.num_pixels
        means = [value / count for value in self.values]
        # The variance by whole numbers: two large floats of nearly the same size would cancel.
        variances = [
            (square * count - value * value) / (count * count)
            for value, square in zip(self.values, self.squares, strict=True)
        ]
        return [mean / largest for mean in means], [variance**0.5 / largest for variance in variances]


def no_pixels(num_channels: int) -> ChannelSums:
    return ChannelSums(0, (0,) * num_channels, (0,) * num_channels)


class Encoded(NamedTuple):
    """An image as a shard holds it."""

    data: bytes
    """A JPEG, upright, grey or RGB, or an array; the very object that came in where the image keeps its own bytes."""
    source_height: int
    source_width: int
    """Of the source, upright."""
    kind: str
    """Of the source, see imaging.decode.read_kind."""
    channels: Channels
    sums: ChannelSums
    """Over the stored pixels, before they are compressed; of no pixels unless they were asked for."""
    likeness: np.void
    """Of LIKENESS_DTYPE."""


def encode(data: bytes, short_side_px: int | None, jpeg_quality: int, with_sums: bool = True) -> Encoded:
    """Raises ImageError where `imaging.decode` does, and for what is too long for a JPEG."""
    header = read_jpeg_header(data)
    if header is not None and header.is_plain:
        size = (header.height, header.width)
        if short_side_px is None or size_at_short_side(*size, short_side_px) == size:
            return _keep(data, header, with_sums)
    image_HWC = decode(data, min_short_side_px=short_side_px or 0)
    height, width = read_size(data) if header is None else header.upright_size
    kind = read_kind(data) if header is None else header.kind
    # From the source's size: a decoder that scales rounds, and its rounding would be scaled too.
    size = size_at_short_side(height, width, short_side_px) if short_side_px else (height, width)
    found = channels_of(image_HWC)
    if found != RGB:
        image_HWC = resize(image_HWC, *size)
        encoded = encode_array(image_HWC)
        encoded = data if encoded == data else encoded
        sums = _sums_of_any(image_HWC) if with_sums else no_pixels(found.number)
        return Encoded(encoded, height, width, kind, found, sums, likeness(image_HWC))
    if max(size) > MAX_JPEG_SIDE_PX:
        raise ImageError(
            "too_long", f"The image has {width} x {height} pixels; a JPEG has at most {MAX_JPEG_SIDE_PX} a side."
        )
    image_HWC = resize(image_HWC, *size)
    sampling = "444" if min(size) < FULL_COLOR_BELOW_PX else "420"
    encoded = simplejpeg.encode_jpeg(image_HWC, quality=jpeg_quality, colorspace="RGB", colorsubsampling=sampling)
    sums = _sums(image_HWC) if with_sums else no_pixels(NUM_CHANNELS)
    return Encoded(encoded, height, width, kind, RGB, sums, likeness(image_HWC))


def _keep(data: bytes, header: JpegHeader, with_sums: bool) -> Encoded:
    """A JPEG as it is: all of it is read, to know that it can be decoded, and as little computed as tells it apart."""
    check_pixels(header.height, header.width)
    brightness_HW1 = decode_brightness(data, SEEN_SHORT_SIDE_PX)
    sums = _sums(decode(data)) if with_sums else no_pixels(NUM_CHANNELS)
    return Encoded(data, header.height, header.width, header.kind, RGB, sums, likeness(brightness_HW1))


def _sums(image_HWC: np.ndarray) -> ChannelSums:
    """Exact: OpenCV sums in whole numbers and double precision, whose rounding is far below one half."""
    num_pixels = image_HWC.shape[0] * image_HWC.shape[1]
    means, stds = (figure.ravel().tolist() for figure in cv2.meanStdDev(image_HWC))
    values = tuple(round(mean * num_pixels) for mean in means)
    squares = tuple(round((std * std + mean * mean) * num_pixels) for mean, std in zip(means, stds, strict=True))
    return ChannelSums(num_pixels, values, squares)


def _sums_of_any(image_HWC: np.ndarray) -> ChannelSums:
    """Of 16 bits and of any number of channels: the squares of a large image are beyond a double's whole numbers."""
    pixels_NC = image_HWC.reshape(-1, image_HWC.shape[2])
    values, squares = np.zeros((2, image_HWC.shape[2]), np.int64)
    for start in range(0, len(pixels_NC), PIXELS_AT_ONCE):
        part_NC = pixels_NC[start : start + PIXELS_AT_ONCE].astype(np.int64)
        values += part_NC.sum(axis=0)
        squares += (part_NC * part_NC).sum(axis=0)
    return ChannelSums(len(pixels_NC), tuple(values.tolist()), tuple(squares.tolist()))

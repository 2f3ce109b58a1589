"""The one decoder: bytes of an image file -> pixels, for sharding, training and serving alike.

The rules: EXIF orientation is applied; of a picture 16 bits keep their upper 8, CMYK and palettes become RGB,
transparency lies over white; of an animation the first frame counts; colour profiles are ignored. An image with other
channels than grey or colour keeps them and their bits. Limits are checked on the header, before anything is allocated.
"""

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.arrays import decode_array, read_array_header
from pipeline.imaging.jpeg import MAGIC, ORIENTATION_TAG, JpegHeader, decode_jpeg, read_jpeg_header
from pipeline.imaging.region import Region, decode_jpeg_region, shrunk_size
from pipeline.imaging.tiff import MAGICS as TIFF_MAGICS
from pipeline.imaging.tiff import decode_bands, read_bands, tile_bytes

MAX_PIXELS = 120_000_000
"""Room for a 108-megapixel phone's photograph: 360 MB decoded. Images of other channels get as many bytes."""

BYTES_PER_PIXEL = 3

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000")
"""Pillow's other readers are never tried on foreign bytes."""

WHITE = (255, 255, 255)
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAGICS = (MAGIC, PNG_MAGIC, b"RIFF", b"GIF8", *TIFF_MAGICS, b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""What begins like this was meant to be an image."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow's own check, for the formats whose headers only Pillow reads


def decode(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    min_short_side_px: int = 0,
    scratch: np.ndarray | None = None,
) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a picture, upright and contiguous, owned by the caller.

    A TIFF with other channels than grey, RGB or CMYK, and an array that is neither uint8 grey nor uint8 RGB, come with
    the channels and the bits that they have: uint8 or uint16 [H, W, C], to be read only.

    With `min_short_side_px` a JPEG may come at 1/2, 3/8, 1/4 or 1/8 of its size, its short side no smaller than that.
    With `scratch`, uint8 [num_bytes], the pixels may lie in it: they are good until it is used again. Memory that was
    used before saves the time in which the system hands out fresh pages.
    Raises ImageError; its `reason` is one of empty_file, not_an_image, truncated, damaged, too_many_pixels,
    unsupported_mode, unsupported_channels.
    """
    header = read_jpeg_header(data)
    if header is not None:
        check_pixels(header.height, header.width, max_pixels)
        return _upright(decode_jpeg(data, header, min_short_side_px, scratch), header.orientation)
    array = read_array_header(data)
    if array is not None:
        _check_bytes(array.height, array.width, array.num_bytes, max_pixels)
        return _repeat_grey(decode_array(data, array))
    bands = read_bands(data)
    if bands is not None:
        _check_bytes(bands.height, bands.width, bands.num_bytes, max_pixels)
        _check_tile(bands.tile_bytes, max_pixels)
        with _translating():
            return _upright(_repeat_grey(decode_bands(data, bands)), bands.orientation)
    with _open(data) as image:
        check_pixels(image.height, image.width, max_pixels)
        _check_whole(data)
        with _translating():
            if image.format == "TIFF":
                _check_tile(tile_bytes(image.tag_v2), max_pixels)
            image.load()
            return _upright(_to_rgb(image), _orientation(image))


def decode_region(
    data: bytes, header: JpegHeader | None, region: Region, scratch: np.ndarray | None = None
) -> np.ndarray:
    """[region.height, region.width, C]: that rectangle of what `decode` gives, pixel for pixel.

    `header` is what `read_jpeg_header` said of the data; `scratch` is as in `decode`. The region lies inside the image.
    Of a JPEG no more than the region may be looked at, so this is for bytes that were decoded whole once and that a
    checksum vouches for: damage elsewhere can go unseen. Raises ImageError as `decode` does.
    """
    if header is not None:
        check_pixels(header.height, header.width)
        region_HWC = decode_jpeg_region(data, header, region, scratch)
        if region_HWC is not None:
            return region_HWC
    height, width = read_size(data)
    shrunk_px = min(shrunk_size(height, width, region.shrink)) if region.shrink > 1 else 0
    return region.of(decode(data, min_short_side_px=shrunk_px, scratch=scratch))


def read_size(data: bytes) -> tuple[int, int]:
    """(height, width) of the upright image, from the header alone.

    Raises ImageError as `decode` does for headers.
    """
    header = read_jpeg_header(data) or read_array_header(data) or read_bands(data)
    if header is not None:
        height, width, orientation = header.height, header.width, getattr(header, "orientation", 1)
    else:
        with _open(data) as image:
            height, width = image.height, image.width
            # Pillow turns TIFFs itself and reports the size after that.
            orientation = 1 if image.format == "TIFF" else _orientation(image)
    return (width, height) if orientation >= 5 else (height, width)


def read_kind(data: bytes) -> str:
    """Format and kind of pixels, from the header alone: `JPEG YCbCr`, `PNG RGBA`, `TIFF 5 uint16`.

    Raises ImageError as `decode` does for headers.
    """
    header = read_jpeg_header(data)
    if header is not None:
        return header.kind
    array = read_array_header(data)
    if array is not None:
        return f"NPY {array.num_channels} {array.dtype.name}"
    bands = read_bands(data)
    if bands is not None:
        return f"TIFF {bands.num_channels} {bands.dtype}"
    with _open(data) as image:
        return f"{image.format} {image.mode}"


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("empty_file", "The file is empty.")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError("too_many_pixels", f"{exc}") from exc
    except MemoryError:
        raise
    except Exception as exc:
        if data.startswith(MAGICS):
            raise ImageError("damaged", "The image is damaged: its header cannot be read.") from exc
        raise ImageError(
            "not_an_image", f"The bytes are no image of a known format ({', '.join(FORMATS)}, NPY)."
        ) from exc


def check_pixels(height: int, width: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raises ImageError with the reason too_many_pixels."""
    if height * width > max_pixels:
        raise ImageError(
            "too_many_pixels", f"The image has {width} x {height} pixels, more than the {max_pixels} that are decoded."
        )


def _check_bytes(height: int, width: int, num_bytes: int, max_pixels: int) -> None:
    if num_bytes > max_pixels * BYTES_PER_PIXEL:
        raise ImageError(
            "too_many_pixels",
            f"The image has {width} x {height} pixels and takes {num_bytes} bytes, more than the "
            f"{max_pixels * BYTES_PER_PIXEL} that are decoded; cut it into smaller ones.",
        )


def _check_tile(num_bytes: int, max_pixels: int) -> None:
    if num_bytes > max_pixels * BYTES_PER_PIXEL:
        raise ImageError(
            "too_many_pixels",
            f"A tile of the TIFF takes {num_bytes} bytes, more than the {max_pixels * BYTES_PER_PIXEL} that are "
            "decoded; write it with smaller tiles.",
        )


def _repeat_grey(image_HWC: np.ndarray) -> np.ndarray:
    """Eight bits of grey become RGB, as in every other format; nothing else does."""
    is_grey = image_HWC.dtype == np.uint8 and image_HWC.shape[2] == 1
    return np.repeat(image_HWC, 3, axis=2) if is_grey else image_HWC


def _check_whole(data: bytes) -> None:
    """Finds what Pillow lets through: a JPEG without its end, a PNG whose checksums are wrong or that just stops."""
    if data.startswith(MAGIC) and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ImageError("truncated", "The JPEG is truncated: it has no end marker.")
    if not data.startswith(PNG_MAGIC):
        return
    position, kind = len(PNG_MAGIC), b""
    while kind != b"IEND":
        num_bytes, kind = int.from_bytes(data[position : position + 4]), data[position + 4 : position + 8]
        checked_end = position + 8 + num_bytes
        if checked_end + 4 > len(data):
            raise ImageError("truncated", "The PNG is truncated: it ends before its IEND chunk.")
        is_critical = kind[:1].isupper()
        crc = int.from_bytes(data[checked_end : checked_end + 4])
        if is_critical and zlib.crc32(memoryview(data)[position + 4 : checked_end]) != crc:
            raise ImageError("damaged", f"The PNG is damaged: the checksum of its {kind.decode('latin-1')} is wrong.")
        position = checked_end + 4


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as exc:  # Pillow's readers raise all kinds of errors on damaged bytes
        raise _damaged(exc) from exc


def _damaged(exc: Exception) -> ImageError:
    reason = "truncated" if "truncated" in str(exc).lower() else "damaged"
    return ImageError(reason, f"The image is {reason}: {exc}.")


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        grey_HW = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise ImageError(
            "unsupported_mode",
            f"Pixels of the kind {image.mode} have no stated range; convert the image to 8 or 16 bits a channel.",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        over_white = Image.new("RGB", image.size, WHITE)
        over_white.paste(rgba, mask=rgba.getchannel("A"))
        return np.array(over_white)
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ORIENTATION_TAG, 1)
    return orientation if orientation in range(1, 9) else 1


def _upright(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes what the camera's position did. Source: EXIF 2.3, tag Orientation."""
    if orientation in (5, 6, 7, 8):
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return np.ascontiguousarray(pixels_HWC)

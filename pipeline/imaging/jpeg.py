"""JPEG bytes -> pixels through libjpeg-turbo, with the GIL released.

What the library calls a warning is an error here, because a warning means that pixels were made up; the few that
cost no pixel are let through.
"""

import io
import re
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageChops

from pipeline.errors import ImageError

MAGIC = b"\xff\xd8\xff"
ORIENTATION_TAG = 0x0112

_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MAX_EXTRANEOUS_BYTES = 16  # webcams pad the end of the picture by a few bytes; a damaged one skips hundreds
_JFIF_REVISION = re.compile(rb"(\xff\xe0..JFIF\0).", re.DOTALL)


class JpegHeader(NamedTuple):
    height: int
    width: int
    """As stored, before the orientation is applied."""
    colorspace: str
    orientation: int
    """EXIF's 1 to 8."""

    @property
    def kind(self) -> str:
        return f"JPEG {self.colorspace}"

    @property
    def is_plain(self) -> bool:
        """Any JPEG reader shows the same upright RGB or grey picture."""
        return self.orientation == 1 and self.colorspace in ("YCbCr", "Gray")

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width)."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """None for bytes that libjpeg-turbo does not take for a JPEG."""
    if data[:3] != MAGIC:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a sampling, or a header cut short, that simplejpeg has no name for
        return None
    return JpegHeader(height, width, colorspace, _orientation(data))


def decode_jpeg(
    data: bytes, header: JpegHeader, min_short_side_px: int = 0, scratch: np.ndarray | None = None
) -> np.ndarray:
    """uint8 [height, width, 3] RGB as stored, or at 1/2, 3/8, 1/4 or 1/8 of that with at least the given short side.

    It lies in `scratch`, uint8 [num_bytes], where that has room.
    Raises ImageError with the reason `truncated` or `damaged`.
    """
    is_cmyk = header.colorspace in ("CMYK", "YCCK")
    options = {}
    if scratch is not None and not is_cmyk and header.height * header.width * 3 <= scratch.size:
        options["buffer"] = scratch
    pixels_HWC = _decode(data, "CMYK" if is_cmyk else "RGB", min_short_side_px, **options)
    if is_cmyk:
        # Writers of CMYK JPEGs follow Adobe, which stores ink inverted.
        ink = ImageChops.invert(Image.fromarray(pixels_HWC, "CMYK"))
        pixels_HWC = np.array(ink.convert("RGB"))
    return pixels_HWC


def decode_brightness(data: bytes, min_short_side_px: int) -> np.ndarray:
    """uint8 [height, width, 1]: the brightness alone, as stored, at the smallest of 1 to 1/8 with that short side.

    Every entropy-coded byte is read, so that it raises ImageError where `decode_jpeg` does; little else is computed.
    """
    return _decode(data, "Gray", min_short_side_px)


def _decode(data: bytes, colorspace: str, min_short_side_px: int, **options: np.ndarray) -> np.ndarray:
    if min_short_side_px:
        # Scales between 1 and 1/2 have no fast transform in libjpeg-turbo: they cost more than they save.
        options |= {"min_height": min_short_side_px, "min_width": min_short_side_px, "min_factor": 2}
    try:
        return simplejpeg.decode_jpeg(data, colorspace, **options)
    except ValueError as exc:
        said = str(exc)
        if "unknown JFIF revision" in said:  # not even simplejpeg's lenient mode reads these
            known = _JFIF_REVISION.sub(lambda found: found[1] + b"\x01", data)
            if known != data:
                return _decode(known, colorspace, min_short_side_px, **options)
        extraneous = _EXTRANEOUS.search(said)
        if extraneous and int(extraneous[1]) <= _MAX_EXTRANEOUS_BYTES:
            return simplejpeg.decode_jpeg(data, colorspace, strict=False, **options)
        reason = "truncated" if "remature end" in said else "damaged"
        raise ImageError(reason, f"The JPEG is {reason}: {exc}.") from exc


def _orientation(data: bytes) -> int:
    if not _has_app1(data):
        return 1
    try:
        orientation = Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # EXIF that cannot be read says nothing about the picture
        return 1
    return orientation if orientation in range(1, 9) else 1


def _has_app1(data: bytes) -> bool:
    """Whether a segment that can hold EXIF or XMP comes before the picture. Source: ITU T.81, B.1.1."""
    position = 2
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1 : position + 2]
        if marker == b"\xe1":
            return True
        if marker in (b"\xda", b""):
            return False
        is_fill = marker == b"\xff"
        position += 1 if is_fill else 2 + int.from_bytes(data[position + 2 : position + 4])
    return False

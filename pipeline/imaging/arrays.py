"""Images of any number of channels as `.npy` bytes: no pickle, nothing allocated before the header was checked.

Source of the format: NumPy Enhancement Proposal 1, versions 1.0 and 2.0.
"""

import io
import re
from typing import NamedTuple

import numpy as np

from pipeline.errors import ImageError
from pipeline.imaging.channels import MAX_CHANNELS

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 1024
"""NumPy's own, of three axes, takes 118."""

_HEADER = re.compile(
    rb"\{'descr': '([^']+)', 'fortran_order': (True|False), 'shape': \((\d{1,9}(?:, \d{1,9})*),?\),? *\} *\n?"
)
_DTYPES = ("|u1", "<u1", ">u1", "<u2", ">u2")


class ArrayHeader(NamedTuple):
    height: int
    width: int
    num_channels: int
    dtype: np.dtype
    """As stored, with its byte order."""
    order: str
    """C or F, as NumPy names them."""
    start: int
    """Byte at which the pixels begin."""

    @property
    def num_bytes(self) -> int:
        return self.height * self.width * self.num_channels * self.dtype.itemsize


def read_array_header(data: bytes) -> ArrayHeader | None:
    """None for bytes that are no NumPy array.

    Raises ImageError with the reason truncated, damaged, unsupported_mode or unsupported_channels.
    """
    if not data.startswith(MAGIC):
        return None
    width_of_length = 2 if data[6:7] == b"\x01" else 4
    begin = 8 + width_of_length
    start = begin + int.from_bytes(data[8:begin], "little")
    if len(data) < min(start, begin + MAX_HEADER_BYTES):
        raise ImageError("truncated", "The array is truncated: it ends inside its header.")
    found = _HEADER.fullmatch(data, begin, start) if start <= begin + MAX_HEADER_BYTES else None
    if found is None:
        raise ImageError(
            "unsupported_mode", "The array is damaged, or its values are no plain numbers; write uint8 or uint16."
        )
    descr, is_fortran, shape = (part.decode("ascii", "replace") for part in found.groups())
    if descr not in _DTYPES:
        raise ImageError(
            "unsupported_mode",
            f"Arrays of the kind {descr} have no stated range; scale the values to uint8 or uint16 ('|u1', '<u2').",
        )
    height, width, num_channels = _sizes(tuple(map(int, shape.split(", "))))
    header = ArrayHeader(height, width, num_channels, np.dtype(descr), "F" if is_fortran == "True" else "C", start)
    if len(data) - start != header.num_bytes:
        reason = "truncated" if len(data) - start < header.num_bytes else "damaged"
        raise ImageError(
            reason,
            f"The array is {reason}: it holds {len(data) - start} bytes of pixels instead of {header.num_bytes}.",
        )
    return header


def decode_array(data: bytes, header: ArrayHeader) -> np.ndarray:
    """[height, width, num_channels], contiguous, in this machine's byte order; read-only where nothing was copied."""
    pixels = np.frombuffer(data, header.dtype, offset=header.start)
    image_HWC = pixels.reshape((header.height, header.width, header.num_channels), order=header.order)
    return np.require(image_HWC.astype(header.dtype.newbyteorder("="), copy=False), requirements=["C", "A"])


def encode_array(image_HWC: np.ndarray) -> bytes:
    """The same bytes for the same pixels, on every machine."""
    out = io.BytesIO()
    little_HWC = np.ascontiguousarray(image_HWC.astype(image_HWC.dtype.newbyteorder("<"), copy=False))
    np.lib.format.write_array(out, little_HWC, version=(1, 0), allow_pickle=False)
    return out.getvalue()


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and number of channels."""
    if len(shape) not in (2, 3):
        raise ImageError(
            "unsupported_channels", f"The array has {len(shape)} axes; an image has height, width and channels."
        )
    height, width, num_channels = shape if len(shape) == 3 else (*shape, 1)
    text = " x ".join(map(str, shape))
    if not height * width * num_channels:
        raise ImageError("damaged", f"The array has no pixels: its shape is {text}.")
    if height < width and height < num_channels:
        raise ImageError(
            "unsupported_channels",
            f"The array's shape {text} looks like channels first; store height x width x channels: transpose it.",
        )
    if num_channels > MAX_CHANNELS:
        raise ImageError(
            "unsupported_channels",
            f"The array has {num_channels} channels (its shape is {text}, read as height x width x channels), more "
            f"than the {MAX_CHANNELS} that are read; choose some, or transpose it.",
        )
    return height, width, num_channels

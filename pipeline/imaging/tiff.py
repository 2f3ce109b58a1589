"""TIFFs with other channels than Pillow has a mode for: their directory is read here, their pixels by Pillow.

A row of n interleaved channels is, to a decompressor, a row of grey n times as wide; so Pillow (libtiff) is shown the
same strips or tiles under a directory that says so. Channels in planes are shown to it one after the other.
"""

import io
import struct
from typing import NamedTuple

import numpy as np
from PIL import TiffImagePlugin

from pipeline.errors import ImageError
from pipeline.imaging.channels import MAX_CHANNELS

MAGICS = (b"II*\0", b"MM\0*", b"II+\0")
"""Little end first, big end first, and BigTIFF, which Pillow reads little end first alone."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _ORIENTATION, _SAMPLES = (
    256, 257, 258, 259, 262, 273, 274, 277,
)  # fmt: skip
_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = (
    278, 279, 284, 317, 322, 323, 324, 325, 338, 339,
)  # fmt: skip
"""Tags. Source: TIFF 6.0, appendix A."""

_GREY, _SEPARATE, _UNSIGNED = 1, 2, 1
_NUM_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, 6: 3, 8: 3}
"""By photometric interpretation: grey (0, 1), RGB, palette, mask, CMYK, YCbCr, Lab."""

_ALPHA = (1, 2)  # associated and unassociated; 0 may be anything, an infrared band most often
_DIFFERENCES = 2
_PLAIN, _PACKBITS = 1, 32773
_DIFFERENCED = {5: "LZW", 8: "Deflate", 32946: "Deflate", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions that a predictor goes with."""

_SHORT, _LONG = 3, 4
_MAX_LONG = 2**32 - 1


class Bands(NamedTuple):
    """Where and how the channels of a TIFF lie."""

    height: int
    width: int
    num_channels: int
    bits: int
    orientation: int
    """EXIF's 1 to 8."""
    compression: int
    is_differenced: bool
    is_separate: bool
    tile: tuple[int, int] | None
    """Height and width; None for strips."""
    tile_bytes: int
    rows_per_strip: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def dtype(self) -> str:
        return f"uint{self.bits}"

    @property
    def num_bytes(self) -> int:
        return self.height * self.width * self.num_channels * self.bits // 8


def read_bands(data: bytes) -> Bands | None:
    """None for grey, RGB, CMYK and palettes, with or without transparency, and for what is no readable TIFF. Three
    samples that are not said to be colours are none: so GDAL writes three bands of 16 bits.

    Raises ImageError with the reason unsupported_channels, unsupported_mode or damaged. Source: TIFF 6.0, section 18.
    """
    if not data.startswith(MAGICS):
        return None
    try:
        tags = _read_directory(data)
        num_channels = int(tags.get(_SAMPLES, 1))
        extra = tags.get(_EXTRA, ())
        wanted = _NUM_COLORS.get(tags.get(_PHOTOMETRIC, 0))
    except Exception:  # damaged in a way that the decoder has a better message for
        return None
    num_colors = num_channels - sum(kind in _ALPHA for kind in extra)
    if wanted is None or num_colors == wanted:
        return None
    if not 0 < num_channels <= MAX_CHANNELS:
        raise ImageError(
            "unsupported_channels",
            f"The TIFF has {num_channels} channels, more than the {MAX_CHANNELS} that are read; choose some.",
        )
    try:
        bands = _describe(tags, num_channels)
    except ImageError:
        raise
    except Exception as exc:  # tags that are missing or of another type
        raise ImageError("damaged", f"The TIFF is damaged: its directory cannot be read ({exc!r}).") from exc
    _check_layout(bands, len(data))
    return bands


def tile_bytes(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """Of a tile as libtiff decodes it, which may be far larger than the image; 0 for strips, which end with it."""
    if _TILE_WIDTH not in tags:
        return 0
    num_interleaved = 1 if tags.get(_PLANAR, 1) == _SEPARATE else int(tags.get(_SAMPLES, 1))
    num_pixels = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_HEIGHT, 0))
    return num_pixels * num_interleaved * max(_several(tags.get(_BITS, 1))) // 8


def decode_bands(data: bytes, bands: Bands) -> np.ndarray:
    """uint8 or uint16 [height, width, num_channels] as stored, before the orientation is applied.

    Raises what Pillow raises.
    """
    if not bands.is_separate:
        grey_HW = _decode_grey(data, bands, bands.num_channels, bands.offsets, bands.lengths)
        image_HWC = grey_HW.reshape(bands.height, bands.width, bands.num_channels)
        return _undo_differences(image_HWC, bands) if bands.is_differenced else image_HWC
    image_HWC = np.empty((bands.height, bands.width, bands.num_channels), bands.dtype)
    per_plane = len(bands.offsets) // bands.num_channels
    for channel in range(bands.num_channels):
        of_plane = slice(channel * per_plane, (channel + 1) * per_plane)
        grey_HW = _decode_grey(data, bands, 1, bands.offsets[of_plane], bands.lengths[of_plane])
        plane_HWC = grey_HW[:, :, None]
        image_HWC[:, :, channel : channel + 1] = (
            _undo_differences(plane_HWC, bands) if bands.is_differenced else plane_HWC
        )
    return image_HWC


def _read_directory(data: bytes) -> TiffImagePlugin.ImageFileDirectory_v2:
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if data[2:3] == b"+" else 8])
    file = io.BytesIO(data)
    file.seek(directory.next)
    directory.load(file)
    return directory


def _describe(tags: TiffImagePlugin.ImageFileDirectory_v2, num_channels: int) -> Bands:
    bits, kinds = set(_several(tags.get(_BITS, 1))), set(_several(tags.get(_FORMAT, _UNSIGNED)))
    compression, predictor = tags.get(_COMPRESSION, _PLAIN), tags.get(_PREDICTOR, 1)
    if kinds != {_UNSIGNED} or bits not in ({8}, {16}):
        raise ImageError(
            "unsupported_mode",
            f"The TIFF's {num_channels} channels have {_listed(bits)} bits of sample format {_listed(kinds)}; only "
            "unsigned whole numbers of 8 or of 16 bits have a stated range: convert them.",
        )
    if compression not in (_PLAIN, _PACKBITS, *_DIFFERENCED) or predictor not in (1, _DIFFERENCES):
        raise ImageError(
            "unsupported_mode",
            f"The TIFF's {num_channels} channels are compressed by scheme {compression} with predictor {predictor}; "
            "write them with LZW, Deflate, LZMA, Zstandard, PackBits or no compression.",
        )
    is_tiled = _TILES in tags
    orientation = tags.get(_ORIENTATION, 1)
    return Bands(
        height=int(tags[_HEIGHT]),
        width=int(tags[_WIDTH]),
        num_channels=num_channels,
        bits=bits.pop(),
        orientation=orientation if orientation in range(1, 9) else 1,
        compression=compression,
        is_differenced=predictor == _DIFFERENCES and compression in _DIFFERENCED,
        is_separate=tags.get(_PLANAR, 1) == _SEPARATE,
        tile=(int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])) if is_tiled else None,
        tile_bytes=tile_bytes(tags),
        rows_per_strip=min(int(tags.get(_ROWS, _MAX_LONG)), int(tags[_HEIGHT])),
        offsets=_several(tags[_TILES if is_tiled else _STRIPS]),
        lengths=_several(tags[_TILE_BYTES if is_tiled else _STRIP_BYTES]),
    )


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _listed(values: set[int]) -> str:
    return " and ".join(map(str, sorted(values)))


def _check_layout(bands: Bands, num_bytes: int) -> None:
    """Raises ImageError where the parts cannot make up the image, or do not lie in the file."""
    part = bands.tile or (bands.rows_per_strip, bands.width)
    if min(bands.height, bands.width, *part) < 1:
        raise ImageError("damaged", f"The TIFF is damaged: {bands.width} x {bands.height} pixels in parts of {part}.")
    num_parts = -(-bands.height // part[0]) * -(-bands.width // part[1])
    num_parts *= bands.num_channels if bands.is_separate else 1
    if not num_parts == len(bands.offsets) == len(bands.lengths):
        raise ImageError("damaged", f"The TIFF is damaged: it lists {len(bands.offsets)} of {num_parts} parts.")
    if min(bands.lengths) == 0:
        raise ImageError(
            "unsupported_mode", "The TIFF leaves parts of its channels out (it is sparse); write it with all of them."
        )
    if any(offset + length > num_bytes for offset, length in zip(bands.offsets, bands.lengths, strict=True)):
        raise ImageError("truncated", f"The TIFF is truncated: a part of it lies behind its {num_bytes} bytes.")
    if bands.compression == _PLAIN and sum(bands.lengths) < bands.num_bytes:
        raise ImageError(
            "truncated", f"The TIFF is truncated: {sum(bands.lengths)} of {bands.num_bytes} bytes of pixels."
        )


def _decode_grey(
    data: bytes, bands: Bands, num_interleaved: int, offsets: tuple[int, ...], lengths: tuple[int, ...]
) -> np.ndarray:
    """[height, width * num_interleaved] in this machine's byte order, differences left as they are."""
    tags = {
        _WIDTH: (_LONG, (bands.width * num_interleaved,)),
        _HEIGHT: (_LONG, (bands.height,)),
        _BITS: (_SHORT, (bands.bits,)),
        _COMPRESSION: (_SHORT, (bands.compression,)),
        _PHOTOMETRIC: (_SHORT, (_GREY,)),
        _SAMPLES: (_SHORT, (1,)),
    }
    if bands.tile:
        tile_height, tile_width = bands.tile
        tags |= {_TILE_WIDTH: (_LONG, (tile_width * num_interleaved,)), _TILE_HEIGHT: (_LONG, (tile_height,))}
        tags |= {_TILES: (_LONG, offsets), _TILE_BYTES: (_LONG, lengths)}
    else:
        tags |= {_ROWS: (_LONG, (bands.rows_per_strip,)), _STRIPS: (_LONG, offsets), _STRIP_BYTES: (_LONG, lengths)}
    order = "<" if data[:2] == b"II" else ">"
    magic = b"II*\0" if order == "<" else b"MM\0*"
    # The directory goes behind the file: what its parts' offsets say stays true.
    at = len(data) + len(data) % 2
    shown = magic + struct.pack(f"{order}I", at) + data[8:] + bytes(at - len(data)) + _directory(tags, at, order)
    # Not Image.open: its limit of pixels is one for pictures, and the caller has checked the bytes.
    with TiffImagePlugin.TiffImageFile(io.BytesIO(shown)) as image:
        grey_HW = np.asarray(image)
    return grey_HW.astype(bands.dtype, copy=False)


def _directory(tags: dict[int, tuple[int, tuple[int, ...]]], at: int, order: str) -> bytes:
    """A TIFF directory that lies at byte `at`, with the values that do not fit into it behind it."""
    entries, behind = b"", b""
    behind_at = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", behind_at + len(behind))
            behind += packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + place
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind


def _undo_differences(image_HWC: np.ndarray, bands: Bands) -> np.ndarray:
    """Each value of a row but a tile's first was stored as what it is more than its left neighbour's, modulo 2^bits."""
    out_HWC = np.empty_like(image_HWC)
    step = bands.tile[1] if bands.tile else bands.width
    for left in range(0, bands.width, step):
        here = slice(left, left + step)
        np.cumsum(image_HWC[:, here], axis=1, dtype=image_HWC.dtype, out=out_HWC[:, here])
    return out_HWC

"""TIFFs of any number of channels, written byte by byte: the reader is tested against the format alone."""

import struct
import zlib

import numpy as np

GREY, RGB, CMYK = 1, 2, 5
PLAIN, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773


def tiff(
    image_HWC: np.ndarray,
    *,
    photometric: int = GREY,
    extra: tuple[int, ...] = (),
    compression: int = PLAIN,
    differences: bool = False,
    separate: bool = False,
    rows_per_strip: int | None = None,
    tile: tuple[int, int] | None = None,
    order: str = "<",
    orientation: int = 1,
    changes: dict[int, tuple[str, tuple[int, ...]]] | None = None,
) -> bytes:
    """`changes` replace tags: (kind for struct, values)."""
    height, width, num_channels = image_HWC.shape
    part = tile or (rows_per_strip or height, width)
    planes = np.split(image_HWC, num_channels, axis=2) if separate else [image_HWC]
    blocks = [
        _compressed(_block(plane_HWC, top, left, *part, is_padded=tile is not None), compression, differences, order)
        for plane_HWC in planes
        for top in range(0, height, part[0])
        for left in range(0, width, part[1])
    ]
    offsets = np.cumsum([8, *map(len, blocks)]).tolist()
    lengths = tuple(map(len, blocks))
    tags = {
        256: ("H", (width,)), 257: ("H", (height,)), 258: ("H", (image_HWC.itemsize * 8,) * num_channels),
        259: ("H", (compression,)), 262: ("H", (photometric,)), 274: ("H", (orientation,)), 277: ("H", (num_channels,)),
        284: ("H", (1 + separate,)), 317: ("H", (1 + differences,)),
    }  # fmt: skip
    if tile:
        tags |= {322: ("H", (tile[1],)), 323: ("H", (tile[0],)), 324: ("I", offsets[:-1]), 325: ("I", lengths)}
    else:
        tags |= {278: ("H", (part[0],)), 273: ("I", offsets[:-1]), 279: ("I", lengths)}
    tags |= {338: ("H", extra)} if extra else {}
    magic = b"II*\0" if order == "<" else b"MM\0*"
    head = magic + struct.pack(f"{order}I", offsets[-1]) + b"".join(blocks)
    return head + _directory(tags | (changes or {}), offsets[-1], order)


def _block(plane_HWC: np.ndarray, top: int, left: int, height: int, width: int, is_padded: bool) -> np.ndarray:
    block_HWC = plane_HWC[top : top + height, left : left + width]
    if not is_padded:
        return block_HWC
    missing = (height - block_HWC.shape[0], width - block_HWC.shape[1])
    return np.pad(block_HWC, ((0, missing[0]), (0, missing[1]), (0, 0)))


def _compressed(block_HWC: np.ndarray, compression: int, differences: bool, order: str) -> bytes:
    if differences:
        block_HWC = np.diff(block_HWC, axis=1, prepend=np.zeros_like(block_HWC[:, :1]))
    data = block_HWC.astype(block_HWC.dtype.newbyteorder(order)).tobytes()
    if compression == DEFLATE:
        return zlib.compress(data)
    if compression == PACKBITS:
        size = len(data) // len(block_HWC)  # a row is packed on its own
        pieces = [
            data[row + at : row + min(at + 128, size)]
            for row in range(0, len(data), size)
            for at in range(0, size, 128)
        ]
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    if compression == LZW:
        return _lzw(data)
    return data


def _lzw(data: bytes) -> bytes:
    """Without ever finding a repetition: a clear code before the table outgrows nine bits. TIFF 6.0, section 13."""
    codes = []
    for place, value in enumerate(data):
        codes += [256, value] if place % 200 == 0 else [value]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _directory(tags: dict[int, tuple[str, tuple[int, ...]]], at: int, order: str) -> bytes:
    entries, behind = b"", b""
    behind_at = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        place = packed.ljust(4, b"\0")
        if len(packed) > 4:
            place = struct.pack(f"{order}I", behind_at + len(behind))
            behind += packed
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values)) + place
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind

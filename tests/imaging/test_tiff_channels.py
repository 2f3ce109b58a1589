import io
import struct

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode
from pipeline.imaging.tiff import check_channels

RGB, CMYK = 2, 5


def tiff(num_channels: int, photometric: int = RGB, extra: tuple[int, ...] = ()) -> bytes:
    """4 x 4 pixels of 8 bits, one strip, uncompressed."""
    pixels = bytes(16 * num_channels)
    bits = struct.pack(f"<{num_channels}H", *[8] * num_channels)
    kinds = struct.pack(f"<{len(extra)}H", *extra)
    tags = [
        (256, 3, 1, 4), (257, 3, 1, 4), (259, 3, 1, 1), (262, 3, 1, photometric), (277, 3, 1, num_channels),
        (278, 3, 1, 4), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    num_tags = len(tags) + 2 + bool(extra)
    at = 8 + 2 + 12 * num_tags + 4
    tags += [(258, 3, num_channels, at if num_channels > 2 else int.from_bytes(bits, "little"))]
    at += len(bits) * (num_channels > 2)
    if extra:
        tags += [(338, 3, len(extra), at if len(extra) > 2 else int.from_bytes(kinds, "little"))]
    behind = bits * (num_channels > 2) + kinds * (len(extra) > 2)
    tags += [(273, 4, 1, at + len(kinds) * (len(extra) > 2))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, num_tags) + entries + bytes(4) + behind + pixels


@pytest.mark.parametrize(
    ("num_channels", "photometric", "extra"),
    [(1, 1, ()), (3, RGB, ()), (4, RGB, (2,)), (4, RGB, (1,)), (2, 1, (2,)), (4, CMYK, ())],
)
def test_grey_colour_and_transparency_pass(num_channels, photometric, extra):
    assert decode(tiff(num_channels, photometric, extra)).shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("num_channels", "photometric", "extra", "num_colors"),
    [(4, RGB, (0,), 4), (5, RGB, (0, 0), 5), (13, 1, (0,) * 12, 13), (2, 1, (0,), 2), (5, RGB, (0, 2), 4)],
)
def test_other_numbers_of_channels_are_refused_with_the_way_out(num_channels, photometric, extra, num_colors):
    message = f"The TIFF has {num_colors} channels; images have 1 or 3: choose the bands"
    with pytest.raises(ImageError, match=message) as caught:
        decode(tiff(num_channels, photometric, extra))
    assert caught.value.reason == "unsupported_channels"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_pillow_writes_passes(mode):
    out = io.BytesIO()
    Image.new(mode, (5, 4)).save(out, "TIFF")
    check_channels(out.getvalue())
    assert decode(out.getvalue()).shape == (4, 5, 3)


def test_damaged_directories_are_left_to_the_decoder():
    whole = np.frombuffer(tiff(5, RGB, (0, 0)), np.uint8)
    for length in (4, 8, 12, 30):
        check_channels(whole[:length].tobytes())


def test_an_array_is_refused_with_the_way_out():
    out = io.BytesIO()
    np.save(out, np.zeros((4, 4, 5), np.uint8))
    with pytest.raises(ImageError, match="The file is a NumPy array, which is not read; choose the bands") as caught:
        decode(out.getvalue())
    assert caught.value.reason == "unsupported_channels"

"""What is no image, is cut off, is damaged or is too large: refused with a reason, and before memory is taken."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode, read_size
from pipeline.imaging.jpeg import read_jpeg_header

PIXELS_HWC = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def saved(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS_HWC).save(out, kind, **options)
    return out.getvalue()


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **limits)
    assert str(caught.value).endswith((".", ")."))
    return caught.value.reason


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(saved("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_claiming(width: int, height: int) -> bytes:
    data = bytearray(saved("BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def gif_claiming(width: int, height: int) -> bytes:
    data = bytearray(saved("GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def test_an_empty_file():
    assert reason_of(b"") == "empty_file"


@pytest.mark.parametrize(
    "data", [b"hello, this is text", b"<html><body></body></html>", pickle.dumps([1, 2]), b"\xff\xd8"]
)
def test_what_is_no_image(data):
    assert reason_of(data) == "not_an_image"
    with pytest.raises(ImageError, match=r"no image of a known format \(JPEG, PNG"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_a_file_cut_in_the_middle(kind):
    data = saved(kind)
    for end in (len(data) // 2, len(data) // 3, 60):
        assert reason_of(data[:end]) in ("truncated", "damaged")


@pytest.mark.parametrize("cut", [1, 2, 30, 3000])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_of_any_length_counts_as_truncated(kind, cut):
    for options in ({}, {"progressive": True}) if kind == "JPEG" else ({},):
        assert reason_of(saved(kind, **options)[:-cut]) == "truncated"


def test_a_cmyk_jpeg_without_its_end():
    out = io.BytesIO()
    Image.fromarray(PIXELS_HWC).convert("CMYK").save(out, "JPEG")
    assert reason_of(out.getvalue()[:-2]) == "truncated"


def test_a_png_with_a_wrong_checksum():
    data = bytearray(saved("PNG", compress_level=0))
    data[-17] ^= 1  # the last byte of the checksum of the last IDAT
    with pytest.raises(ImageError, match="The PNG is damaged: the checksum of its IDAT is wrong") as caught:
        decode(bytes(data))
    assert caught.value.reason == "damaged"


def test_a_few_stray_bytes_before_the_end_cost_no_pixel_and_many_do():
    data = saved("JPEG")
    np.testing.assert_array_equal(decode(data[:-2] + b"pad!" + data[-2:]), decode(data))
    np.testing.assert_array_equal(decode(data + b"whatever follows"), decode(data))
    assert reason_of(data[:-2] + b"p" * 500 + data[-2:]) == "damaged"


def test_a_revision_of_jfif_that_does_not_exist_costs_no_pixel_and_hides_no_damage():
    data = bytearray(saved("JPEG"))
    expected_HWC = decode(bytes(data))
    data[data.index(b"JFIF\0") + 5] = 3
    np.testing.assert_array_equal(decode(bytes(data)), expected_HWC)
    assert reason_of(bytes(data[: len(data) // 2])) == "truncated"


def test_a_jpeg_with_broken_codes_is_damaged():
    data = bytearray(saved("JPEG", quality=95))
    start = data.index(b"\xff\xda") + 20
    data[start : start + 300] = bytes(300)
    assert reason_of(bytes(data)) in ("damaged", "truncated")


@pytest.mark.parametrize("claiming", [png_claiming, jpeg_claiming, bmp_claiming, gif_claiming])
@pytest.mark.parametrize("side_px", [20_000, 11_000])
def test_too_many_pixels_are_refused_on_the_header(claiming, side_px):
    data = claiming(side_px, side_px)
    tracemalloc.start()
    try:
        if side_px == 20_000:
            assert reason_of(data) == "too_many_pixels"
        else:
            assert reason_of(data, max_pixels=10**8) == "too_many_pixels"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_message_names_size_and_limit():
    with pytest.raises(ImageError, match="The image has 96 x 64 pixels, more than the 6143 that are decoded"):
        decode(saved("PNG"), max_pixels=6143)
    assert decode(saved("PNG"), max_pixels=6144).shape == (64, 96, 3)


def test_a_header_that_lies_is_truncated():
    assert reason_of(jpeg_claiming(3000, 3000)) == "truncated"
    assert reason_of(png_claiming(300, 300)) in ("truncated", "damaged")


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_tiny_and_long_images_are_images(kind, shape):
    out = io.BytesIO()
    Image.fromarray(np.full((*shape, 3), 9, np.uint8)).save(out, kind)
    assert decode(out.getvalue()).shape == (*shape, 3)
    assert read_size(out.getvalue()) == shape


def test_a_jpeg_with_sampling_that_turbojpeg_does_not_know_goes_through_pillow():
    def segment(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    # One unit of 24 x 8 pixels, the first component three times as fine as the others: five blocks, each "no change"
    # and "end of block" in codes of one bit.
    one_code = bytes([1]) + bytes(15) + bytes([0])
    data = b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0]) + bytes([1]) * 64),
            segment(0xC0, struct.pack(">BHHB", 8, 8, 24, 3) + bytes([1, 0x31, 0, 2, 0x11, 0, 3, 0x11, 0])),
            segment(0xC4, b"\x00" + one_code + b"\x10" + one_code),
            segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])),
            bytes([0x00, 0x3F]),
            b"\xff\xd9",
        ]
    )
    assert read_jpeg_header(data) is None
    assert (decode(data) == 128).all()
    assert decode(data).shape == (8, 24, 3)
    assert reason_of(data[:-2]) == "truncated"


KINDS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "JPEG2000", "GIF")
WHOLE = {kind: saved(kind) for kind in KINDS}


@settings(max_examples=300)
@given(st.sampled_from(KINDS), st.integers(0, 2**16), st.binary(min_size=1, max_size=8), st.integers(0, 2**16))
@pytest.mark.filterwarnings("ignore")  # Pillow's own, about the damage
def test_damage_anywhere_gives_pixels_or_an_image_error(kind, position, patch, cut):
    data = bytearray(WHOLE[kind])
    position %= len(data)
    data[position : position + len(patch)] = patch
    damaged = bytes(data[: len(data) - cut % 1000 if cut % 2 else None])
    refusal = None
    try:
        assert decode(damaged, max_pixels=10**6).dtype == np.uint8
        read_size(damaged)
    except ImageError as error:
        refusal = error
    assert refusal is None or (refusal.reason.isidentifier() and "object at 0x" not in str(refusal))


def test_read_size_of_what_is_no_image():
    with pytest.raises(ImageError, match="no image of a known format"):
        read_size(b"text")

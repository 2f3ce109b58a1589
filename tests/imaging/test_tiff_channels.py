"""TIFFs of any number of channels: which are pictures, how the others lie in the file, and what is refused."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiffs import CMYK, DEFLATE, GREY, LZW, PACKBITS, PLAIN, RGB, tiff

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode, read_kind, read_size
from pipeline.imaging.tiff import read_bands

SMALL = np.zeros((4, 4, 5), np.uint8)


def noise(num_channels: int, dtype: str = "uint8", height: int = 13, width: int = 21) -> np.ndarray:
    random = np.random.default_rng(num_channels)
    return random.integers(0, np.iinfo(dtype).max, (height, width, num_channels), dtype, endpoint=True)


@pytest.mark.parametrize(
    ("num_channels", "photometric", "extra"),
    [(1, GREY, ()), (3, RGB, ()), (4, RGB, (2,)), (4, RGB, (1,)), (2, GREY, (2,)), (4, CMYK, ())],
)
def test_grey_colour_and_transparency_are_pictures(num_channels, photometric, extra):
    data = tiff(noise(num_channels), photometric=photometric, extra=extra)
    assert read_bands(data) is None
    assert decode(data).shape == (13, 21, 3)


@pytest.mark.parametrize(
    ("num_channels", "photometric", "extra"),
    [
        (4, RGB, (0,)),
        (5, RGB, (0, 0)),
        (13, GREY, (0,) * 12),
        (13, GREY, ()),
        (2, GREY, (0,)),
        (5, RGB, (0, 2)),
        (3, GREY, (0, 0)),
    ],
)
def test_other_channels_are_kept_as_they_are_transparency_too(num_channels, photometric, extra):
    image_HWC = noise(num_channels)
    data = tiff(image_HWC, photometric=photometric, extra=extra)
    np.testing.assert_array_equal(decode(data), image_HWC)
    assert read_kind(data) == f"TIFF {num_channels} uint8"


def test_three_samples_of_sixteen_bits_are_a_picture_only_when_they_are_said_to_be_colours():
    image_HWC = noise(3, "uint16")
    np.testing.assert_array_equal(decode(tiff(image_HWC, photometric=RGB)), image_HWC >> 8)
    np.testing.assert_array_equal(decode(tiff(image_HWC, photometric=GREY)), image_HWC)


@given(
    data=st.data(),
    dtype=st.sampled_from(["uint8", "uint16"]),
    num_channels=st.sampled_from([2, 4, 5, 13]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    compression=st.sampled_from([PLAIN, DEFLATE, PACKBITS, LZW]),
    is_separate=st.booleans(),
    order=st.sampled_from("<>"),
)
def test_strips_tiles_planes_and_compressions_say_the_same(
    data, dtype, num_channels, size, compression, is_separate, order
):
    image_HWC = noise(num_channels, dtype, *size)
    where = data.draw(
        st.one_of(
            st.builds(lambda rows: {"rows_per_strip": rows}, st.integers(1, 40)),
            st.builds(lambda tall, wide: {"tile": (16 * tall, 16 * wide)}, st.integers(1, 2), st.integers(1, 2)),
        )
    )
    is_differenced = compression in (DEFLATE, LZW) and data.draw(st.booleans())
    written = tiff(
        image_HWC, compression=compression, differences=is_differenced, separate=is_separate, order=order, **where
    )
    read_HWC = decode(written)
    assert read_HWC.dtype == image_HWC.dtype
    np.testing.assert_array_equal(read_HWC, image_HWC)
    assert read_size(written) == size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_channels_are_turned_as_pictures_are(orientation):
    image_HWC = noise(5)
    turned = tiff(image_HWC, orientation=orientation)
    as_picture = tiff(np.ascontiguousarray(image_HWC[:, :, :3]), photometric=RGB, orientation=orientation)
    np.testing.assert_array_equal(decode(turned)[:, :, :3], decode(as_picture))
    assert read_size(turned) == read_size(as_picture) == decode(turned).shape[:2]


@pytest.mark.parametrize(
    ("options", "reason", "message"),
    [
        (
            {"changes": {339: ("H", (3,) * 5)}},
            "unsupported_mode",
            "have 8 bits of sample format 3; only unsigned whole",
        ),
        ({"changes": {258: ("H", (32,) * 5)}}, "unsupported_mode", "5 channels have 32 bits of sample format 1"),
        ({"changes": {258: ("H", (8, 8, 8, 8, 16))}}, "unsupported_mode", "have 8 and 16 bits"),
        ({"changes": {259: ("H", (7,))}}, "unsupported_mode", "compressed by scheme 7 with predictor 1; write them"),
        ({"changes": {317: ("H", (3,))}}, "unsupported_mode", "by scheme 1 with predictor 3"),
        ({"changes": {279: ("I", (0,))}}, "unsupported_mode", "leaves parts of its channels out"),
        ({"changes": {277: ("H", (1000,))}}, "unsupported_channels", "has 1000 channels, more than the 512"),
        ({"changes": {256: ("H", (0,))}}, "damaged", "0 x 4 pixels in parts of"),
        ({"changes": {278: ("H", (1,))}}, "damaged", "it lists 1 of 4 parts"),
        ({"changes": {273: ("I", (1000,))}}, "truncated", "a part of it lies behind its"),
        ({"changes": {279: ("I", (79,))}}, "truncated", "79 of 80 bytes of pixels"),
        ({"changes": {273: ("I", (8, 9))}}, "damaged", "it lists 2 of 1 parts"),
        ({"compression": DEFLATE, "changes": {259: ("H", (LZW,))}}, "damaged", "The image is damaged"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(options, reason, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode(tiff(SMALL, **options))
    assert caught.value.reason == reason


def test_a_directory_without_sizes_is_damaged():
    data = bytearray(tiff(SMALL))
    at = int.from_bytes(data[4:8], "little") + 2
    assert data[at : at + 2] == b"\x00\x01"
    data[at : at + 2] = b"\xff\x00"  # the width becomes a tag that nobody asks for
    with pytest.raises(ImageError, match="its directory cannot be read") as caught:
        decode(bytes(data))
    assert caught.value.reason == "damaged"


def test_bytes_are_limited_before_anything_is_decoded():
    data = tiff(noise(13, "uint16"))
    assert decode(data, max_pixels=13 * 21 * 13 * 2 // 3 + 1).shape == (13, 21, 13)
    with pytest.raises(ImageError, match="has 21 x 13 pixels and takes 7098 bytes, more than the 6000") as caught:
        decode(data, max_pixels=2000)
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize(
    ("num_channels", "options", "tile_bytes"),
    [
        (1, {}, 256 * 256),
        (3, {"photometric": RGB}, 256 * 256 * 3),
        (5, {}, 256 * 256 * 5),
        (5, {"separate": True}, 256 * 256),
    ],
)
def test_a_tile_that_is_larger_than_its_image_is_limited_too(num_channels, options, tile_bytes):
    image_HWC = noise(num_channels)
    data = tiff(image_HWC, compression=DEFLATE, tile=(256, 256), **options)
    assert decode(data, max_pixels=-(-tile_bytes // 3)).shape[:2] == (13, 21)
    limit = tile_bytes // 3 - 1
    message = f"A tile of the TIFF takes {tile_bytes} bytes, more than the {3 * limit} that are decoded; write it with"
    with pytest.raises(ImageError, match=message) as caught:
        decode(data, max_pixels=limit)
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize("num_channels", [1, 5])
def test_a_tile_of_gigabytes_is_refused_before_anything_is_decoded(num_channels):
    sides = {322: ("I", (40_000,)), 323: ("I", (40_000,))}
    data = tiff(noise(num_channels), compression=DEFLATE, tile=(16, 32), changes=sides)
    with pytest.raises(ImageError, match=f"takes {40_000 * 40_000 * num_channels} bytes, more than the 360000000"):
        decode(data)


@given(st.data())
def test_damage_is_an_error_of_ours_or_other_pixels(data):
    whole = tiff(noise(5), compression=data.draw(st.sampled_from([PLAIN, DEFLATE, LZW])), rows_per_strip=5)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with contextlib.suppress(ImageError):
        decode(damaged, max_pixels=10_000)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_what_pillow_writes_is_a_picture(mode):
    out = io.BytesIO()
    Image.new(mode, (5, 4)).save(out, "TIFF")
    assert read_bands(out.getvalue()) is None
    assert decode(out.getvalue()).shape == (4, 5, 3)

"""What goes into a shard for each kind of source image."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import jpeg
from PIL import Image
from scenes import scene

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode
from pipeline.imaging.jpeg import decode_brightness, read_jpeg_header
from pipeline.sharding.alike import correlations
from pipeline.sharding.encode import encode, no_pixels

SMOOTH = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((400, 300))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 40}])
@pytest.mark.parametrize("image", [SMOOTH, SMOOTH.convert("L")])
@pytest.mark.parametrize("short_side_px", [None, 300, 512])
def test_a_jpeg_that_is_small_enough_keeps_its_bytes(image, options, short_side_px):
    data = saved(image, "JPEG", **options)
    encoded = encode(data, short_side_px, 90)
    assert encoded.data == data
    assert (encoded.source_height, encoded.source_width) == (300, 400)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(SMOOTH, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "data",
    [saved(SMOOTH, "PNG"), saved(SMOOTH.convert("CMYK"), "JPEG"), turned(), saved(SMOOTH, "WEBP", lossless=True)],
    ids=["png", "cmyk", "turned", "webp"],
)
def test_everything_else_becomes_an_upright_rgb_jpeg(data):
    encoded = encode(data, None, 95)
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert (image.height, image.width) == (encoded.source_height, encoded.source_width)
        assert not image.getexif()
    assert np.abs(decode(encoded.data).astype(int) - decode(data)).mean() < 3


@pytest.mark.parametrize("short_side_px", [256, 150, 64, 20])
def test_a_large_image_is_scaled_to_the_short_side(short_side_px):
    data = saved(SMOOTH, "JPEG", quality=95)
    encoded = encode(data, short_side_px, 95)
    with Image.open(io.BytesIO(encoded.data)) as image:
        assert (image.height, image.width) == (short_side_px, round(short_side_px * 4 / 3))
        # Reduced decoding must not cost what the eye, or a network, would see.
        reference = SMOOTH.resize(image.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(reference)).mean() < 4
    assert (encoded.source_height, encoded.source_width) == (300, 400)


def test_sums_are_exact_whole_numbers():
    encoded = encode(saved(SMOOTH, "PNG"), None, 90)
    values_N3 = np.asarray(SMOOTH).reshape(-1, 3).astype(np.int64)
    assert encoded.sums.num_pixels == len(values_N3)
    assert encoded.sums.values == tuple(values_N3.sum(axis=0))
    assert encoded.sums.squares == tuple((values_N3**2).sum(axis=0))
    mean, std = (encoded.sums + encoded.sums + no_pixels(3)).mean_and_std()
    np.testing.assert_allclose(mean, values_N3.mean(axis=0) / 255, rtol=1e-12)
    np.testing.assert_allclose(std, values_N3.std(axis=0) / 255, rtol=1e-9)


def test_the_deviation_of_one_colour_is_nothing():
    mean, std = encode(saved(Image.new("RGB", (9, 9), (255, 7, 0)), "PNG"), None, 90).sums.mean_and_std()
    assert std == [0.0, 0.0, 0.0]
    assert mean == [1.0, 7 / 255, 0.0]


def test_what_is_too_long_for_a_jpeg_is_refused():
    with pytest.raises(ImageError, match="The image has 65501 x 1 pixels; a JPEG has at most 65500 a side") as caught:
        encode(saved(Image.new("RGB", (65_501, 1)), "PNG"), 256, 90)
    assert caught.value.reason == "too_long"


def test_what_cannot_be_decoded_is_refused_even_when_its_bytes_would_be_kept():
    with pytest.raises(ImageError, match="truncated"):
        encode(jpeg(1)[:-20], None, 90)


def test_what_is_not_measured_has_no_sums_and_nothing_else_differs():
    for data in (saved(SMOOTH, "PNG"), jpeg(1)):
        measured = encode(data, None, 90)
        assert encode(data, None, 90, with_sums=False) == measured._replace(sums=no_pixels(3))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("side_px", [39, 250, 700])
def test_an_image_that_keeps_its_bytes_is_like_its_copies_that_do_not(subsampling, side_px):
    image = Image.fromarray(scene(3)).resize((side_px * 4 // 3, side_px), Image.Resampling.BICUBIC)
    kept = encode(saved(image, "JPEG", quality=90, subsampling=subsampling), None, 90).likeness
    others = [encode(saved(image, "PNG"), None, 90).likeness, encode(saved(image, "PNG"), 64, 90).likeness]
    for other in others:
        assert np.bitwise_count(kept["hash"] ^ other["hash"]) <= 6
        assert correlations(kept["thumb"][None], other["thumb"][None])[0] > 0.98


def verdict(decoder, data: bytes) -> str:
    try:
        decoder(data)
    except ImageError as exc:
        return f"{exc.reason}: {exc}"
    return "whole"


DAMAGED = {
    "baseline": saved(SMOOTH, "JPEG", quality=85),
    "grey": saved(SMOOTH.convert("L"), "JPEG"),
    "progressive": saved(SMOOTH, "JPEG", progressive=True),
    "restarts": saved(SMOOTH, "JPEG", restart_marker_rows=1),
    "fine colour": saved(SMOOTH, "JPEG", subsampling="4:4:4"),
    "coarse tables": saved(SMOOTH, "JPEG", quality=10, optimize=True),
}


@pytest.mark.parametrize("name", DAMAGED)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_reading_as_little_as_tells_an_image_apart_finds_the_damage_that_decoding_it_all_finds(name, data):
    whole = DAMAGED[name]
    damaged = bytearray(whole[: data.draw(st.just(len(whole)) | st.integers(20, len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(3, len(damaged) - 1))] = data.draw(st.sampled_from([0, 0xD9, 0xFF, 0x55]))
    damaged = bytes(damaged)
    header = read_jpeg_header(damaged)
    if header is not None and header.is_plain and header.height * header.width < 10**6:
        assert verdict(lambda each: decode_brightness(each, 40), damaged) == verdict(decode, damaged)

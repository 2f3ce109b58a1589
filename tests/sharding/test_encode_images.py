"""What goes into a shard for each kind of source image."""

import io

import numpy as np
import pytest
from image_folders import jpeg
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode
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

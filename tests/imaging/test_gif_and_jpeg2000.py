"""Golden pixels of GIF and JPEG 2000, the formats with more kinds of pixels than one expects."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode, read_kind, read_size

SCENE_HWC = np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8)
GREY_HW = SCENE_HWC[:, :, 0]
ALPHA_HW = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (33, 1))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def few_colors() -> tuple[Image.Image, np.ndarray]:
    """A picture with a palette, and its pixels."""
    colors = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 7], [255, 255, 254]], np.uint8)
    entries_HW = GREY_HW % 4
    image = Image.new("P", (40, 33))
    image.putpalette(colors.tobytes())
    image.putdata(entries_HW.ravel().tolist())
    return image, colors[entries_HW]


@pytest.mark.parametrize("is_interlaced", [0, 1])
def test_a_gif_is_its_palette(is_interlaced):
    image, expected_HWC = few_colors()
    data = saved(image, "GIF", interlace=is_interlaced)
    np.testing.assert_array_equal(decode(data), expected_HWC)
    assert read_size(data) == (33, 40)


def test_what_is_transparent_in_a_gif_is_white():
    image, expected_HWC = few_colors()
    expected_HWC = np.where((GREY_HW % 4 == 2)[:, :, None], np.uint8(255), expected_HWC)
    np.testing.assert_array_equal(decode(saved(image, "GIF", transparency=2)), expected_HWC)


def test_a_grey_gif():
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GREY_HW), "GIF")), np.stack([GREY_HW] * 3, axis=2))


def test_a_frame_that_is_smaller_than_the_gifs_canvas_is_on_it():
    """The first frame counts, at its place."""
    data = bytearray(saved(Image.new("P", (4, 4), 0), "GIF"))
    assert int.from_bytes(data[6:8], "little") == 4
    data[6:10] = (8).to_bytes(2, "little") * 2
    assert decode(bytes(data)).shape == (8, 8, 3)


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}], ids=["jp2", "codestream"])
@pytest.mark.parametrize("shown", ["grey", "RGB"])
def test_jpeg_2000_without_loss(options, shown):
    pixels = GREY_HW if shown == "grey" else SCENE_HWC
    data = saved(Image.fromarray(pixels), "JPEG2000", **options)
    expected_HWC = SCENE_HWC if shown == "RGB" else np.stack([GREY_HW] * 3, axis=2)
    np.testing.assert_array_equal(decode(data), expected_HWC)
    assert read_size(data) == (33, 40)
    assert read_kind(data).startswith("JPEG2000 ")


def test_sixteen_bits_of_jpeg_2000_keep_their_upper_eight():
    deep_HW = GREY_HW.astype(np.uint16) * 256 + 77
    decoded_HWC = decode(saved(Image.fromarray(deep_HW), "JPEG2000"))
    np.testing.assert_array_equal(decoded_HWC, np.stack([GREY_HW] * 3, axis=2))


def test_transparency_of_jpeg_2000_lies_over_white():
    image = Image.merge("RGBA", [*Image.fromarray(SCENE_HWC).split(), Image.fromarray(ALPHA_HW)])
    decoded_HWC = decode(saved(image, "JPEG2000"))
    share_HW1 = ALPHA_HW[:, :, None] / 255
    expected_HWC = SCENE_HWC * share_HW1 + 255 * (1 - share_HW1)
    assert np.abs(decoded_HWC - expected_HWC).max() <= 1


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}], ids=["jp2", "codestream"])
def test_half_of_a_jpeg_2000_is_no_image(options):
    data = saved(Image.fromarray(SCENE_HWC), "JPEG2000", **options)
    for length in (40, len(data) // 2):
        with pytest.raises(ImageError) as caught:
            decode(data[:length])
        assert caught.value.reason in ("damaged", "truncated")

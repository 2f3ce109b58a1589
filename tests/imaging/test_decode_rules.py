"""Golden pixels for each kind of image: what the decoder must make of it, computed here without it."""

import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from scenes import TURNED

from pipeline.errors import ImageError
from pipeline.imaging.decode import decode, read_kind, read_size

SCENE_HWC = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY_HW = SCENE_HWC[:, :, 0]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb_of_grey(grey_HW: np.ndarray) -> np.ndarray:
    return np.stack([grey_HW] * 3, axis=2)


def over_white(rgb_HWC: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    alpha_HW1 = alpha_HW[:, :, None] / 255
    return np.rint(rgb_HWC * alpha_HW1 + 255 * (1 - alpha_HW1)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_rgb_comes_back_as_it_is(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels_HWC = decode(saved(Image.fromarray(SCENE_HWC), kind, **options))
    np.testing.assert_array_equal(pixels_HWC, SCENE_HWC)
    assert pixels_HWC.flags.writeable
    assert pixels_HWC.flags.c_contiguous


def test_grey_is_repeated_in_png_and_jpeg():
    np.testing.assert_array_equal(decode(saved(Image.fromarray(GREY_HW), "PNG")), rgb_of_grey(GREY_HW))
    flat_HW = np.full((8, 8), 77, np.uint8)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(flat_HW), "JPEG", quality=100)), rgb_of_grey(flat_HW))


def test_one_bit_is_black_and_white():
    bits_HW = GREY_HW > 127
    np.testing.assert_array_equal(decode(saved(Image.fromarray(bits_HW), "PNG")), rgb_of_grey(bits_HW * np.uint8(255)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_keep_their_upper_eight(kind):
    deep_HW = np.array([[0, 255, 256, 32767], [32768, 65279, 65280, 65535]], np.uint16)
    expected_HW = np.array([[0, 0, 1, 127], [128, 254, 255, 255]], np.uint8)
    np.testing.assert_array_equal(decode(saved(Image.fromarray(deep_HW), kind)), rgb_of_grey(expected_HW))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_lies_over_white(mode):
    alpha_HW = np.linspace(0, 255, 35).astype(np.uint8).reshape(5, 7)
    colors = [GREY_HW] if mode == "LA" else [SCENE_HWC[:, :, channel] for channel in range(3)]
    image = Image.merge(mode, [Image.fromarray(np.ascontiguousarray(each)) for each in [*colors, alpha_HW]])
    expected_HWC = over_white(rgb_of_grey(GREY_HW) if mode == "LA" else SCENE_HWC, alpha_HW)
    decoded_HWC = decode(saved(image, "PNG"))
    assert np.abs(decoded_HWC.astype(int) - expected_HWC).max() <= 1
    assert (decoded_HWC[0, 0] == 255).all(), "what is hidden under alpha 0 must not show"


def test_a_palette_with_a_transparent_entry():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putdata([0, 1])
    assert decode(saved(image, "PNG")).tolist() == [[[10, 20, 30], [200, 100, 0]]]
    assert decode(saved(image, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decode(saved(image, "PNG", transparency=bytes([255, 0]))).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_rgb_with_a_transparent_color():
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(saved(image, "PNG", transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize(("ink", "expected"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 100), 155)])
def test_cmyk_jpeg_is_ink_on_paper(ink, expected):
    pixels_HWC = decode(saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100))
    assert np.abs(pixels_HWC.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert (decode(data) == [255, 0, 0]).all()


def test_a_colour_profile_is_ignored():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(decode(saved(Image.fromarray(SCENE_HWC), "PNG", icc_profile=profile)), SCENE_HWC)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_eight_orientations_of_one_scene_are_alike(kind, orientation):
    # Blocks of one colour: a JPEG of them is nearly exact whichever way it is turned.
    upright_HWC = np.repeat(np.repeat(SCENE_HWC[:2, :3], 16, axis=0), 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = saved(Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright_HWC))), kind, exif=exif, **options)
    assert np.abs(decode(data).astype(int) - upright_HWC).max() <= (4 if kind == "JPEG" else 0)
    assert read_size(data) == upright_HWC.shape[:2]


def test_orientation_written_as_xmp_alone():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:tiff="t" tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(Image.fromarray(SCENE_HWC), "JPEG", xmp=xmp)
    assert decode(data).shape == (7, 5, 3)


def test_unreadable_exif_says_nothing_about_the_picture():
    data = saved(Image.fromarray(SCENE_HWC), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)
    assert decode(data).shape == (5, 7, 3)


def test_rgb_jpegs_are_decoded_as_pillow_does():
    smooth_HWC = np.asarray(Image.fromarray(SCENE_HWC).resize((301, 203), Image.Resampling.BICUBIC))
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"optimize": True}):
        data = saved(Image.fromarray(smooth_HWC), "JPEG", **options)
        np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_a_jpeg_may_come_scaled_down_but_never_below_what_was_asked():
    data = simplejpeg.encode_jpeg(np.full((600, 900, 3), 90, np.uint8), quality=90)
    shapes = {least: decode(data, min_short_side_px=least).shape[:2] for least in (301, 300, 200, 150, 75, 10)}
    assert shapes[301] == (600, 900)
    assert shapes[300] == (300, 450)
    assert shapes[10] == (75, 113)
    assert all(min(shape) >= least for least, shape in shapes.items())


@pytest.mark.parametrize("mode", ["F", "I"])
def test_numbers_without_a_range_are_refused(mode):
    with pytest.raises(ImageError, match=f"kind {mode} have no stated range; convert the image to 8 or 16") as caught:
        decode(saved(Image.new(mode, (3, 3)), "TIFF"))
    assert caught.value.reason == "unsupported_mode"


def test_the_kind_of_an_image_is_told_from_its_header():
    assert read_kind(saved(Image.fromarray(SCENE_HWC), "JPEG")[:-20]) == "JPEG YCbCr"
    assert read_kind(saved(Image.fromarray(SCENE_HWC).convert("RGBA"), "PNG")) == "PNG RGBA"
    with pytest.raises(ImageError, match="no image of a known format"):
        read_kind(b"text")

"""Row 17: each kind of image through scan and shard: the golden picture is stored, EXIF 1 to 8 come out alike."""

import io

import data_project
import numpy as np
import pytest
from image_folders import fill, jpeg
from PIL import Image, ImageCms
from scenes import TURNED

from pipeline.imaging.decode import decode

# Blocks of one colour, so that JPEG is nearly exact.
SCENE_HWC = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
GREY_HWC = SCENE_HWC[:, :, :1].repeat(3, axis=2)
RED_HWC = np.full_like(SCENE_HWC, [255, 0, 0])
HALF_HW = np.full(SCENE_HWC.shape[:2], 128, np.uint8)
OVER_WHITE_HWC = np.rint(SCENE_HWC * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)
GREY_OVER_WHITE_HWC = OVER_WHITE_HWC[:, :, :1].repeat(3, axis=2)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def merged(mode: str, *channels: np.ndarray) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(each)) for each in channels])


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def cmyk() -> bytes:
    ink_HWC = np.dstack([255 - SCENE_HWC, np.zeros(SCENE_HWC.shape[:2], np.uint8)])
    return saved(Image.fromarray(ink_HWC, "CMYK"), "JPEG", quality=100, subsampling=0)


def palette() -> bytes:
    image = Image.new("P", (64, 48))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (32, 0, 64, 48))
    return saved(image, "PNG", transparency=1)


RED_AND_WHITE_HWC = np.where(np.arange(64)[None, :, None] < 32, [255, 0, 0], [255, 255, 255]).repeat(48, axis=0)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_HW = np.ascontiguousarray(GREY_HWC[:, :, 0])

KINDS = {
    "cmyk.jpg": (cmyk(), SCENE_HWC),
    "16bit.png": (saved(Image.fromarray(GREY_HW.astype(np.uint16) << 8), "PNG"), GREY_HWC),
    "16bit.tif": (saved(Image.fromarray(GREY_HW.astype(np.uint16) << 8), "TIFF"), GREY_HWC),
    "L.png": (saved(Image.fromarray(GREY_HW), "PNG"), GREY_HWC),
    "L.jpg": (saved(Image.fromarray(GREY_HW), "JPEG", quality=100), GREY_HWC),
    "LA.png": (saved(merged("LA", GREY_HW, HALF_HW), "PNG"), GREY_OVER_WHITE_HWC),
    "RGBA.png": (saved(merged("RGBA", *np.moveaxis(SCENE_HWC, 2, 0), HALF_HW), "PNG"), OVER_WHITE_HWC),
    "palette.png": (palette(), RED_AND_WHITE_HWC),
    "animated.gif": (animation("GIF"), RED_HWC),
    "animated.webp": (animation("WEBP"), RED_HWC),
    "animated.png": (animation("PNG"), RED_HWC),
    "profile.png": (saved(Image.fromarray(SCENE_HWC), "PNG", icc_profile=PROFILE), SCENE_HWC),
    "1bit.png": (saved(Image.fromarray(GREY_HW > 127), "PNG"), np.where(GREY_HWC > 127, 255, 0)),
}


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels_HWC = np.ascontiguousarray(TURNED[orientation](SCENE_HWC))
    return saved(Image.fromarray(pixels_HWC), "JPEG", quality=100, subsampling=0, exif=exif)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    contents = {f"kinds/{name}": data for name, (data, _) in KINDS.items()}
    contents |= {f"turned/{orientation}.jpg": turned(orientation) for orientation in TURNED}
    fill(folder / "photos", {**contents, "kinds/plain.jpg": jpeg(1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return data_project.run(folder, jpeg_quality=100)


def difference(found, path: str, expected_HWC: np.ndarray) -> int:
    stored_HWC = decode(found.samples[path]["image"]).astype(int)
    assert stored_HWC.shape == expected_HWC.shape
    return int(np.abs(stored_HWC - expected_HWC).max())


@pytest.mark.parametrize("name", KINDS)
def test_the_stored_picture_is_the_golden_one(found, name):
    assert found.rejects == {}
    # Two encodings at quality 100, the second with colour at half resolution.
    assert difference(found, f"kinds/{name}", KINDS[name][1]) <= 8


@pytest.mark.parametrize("orientation", TURNED)
def test_the_eight_orientations_are_stored_alike(found, orientation):
    assert difference(found, f"turned/{orientation}.jpg", SCENE_HWC) <= 8
    facts = found.samples[f"turned/{orientation}.jpg"]
    assert (facts["height"], facts["width"]) == SCENE_HWC.shape[:2]

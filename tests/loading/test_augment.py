import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loading.augment import NUM_DRAWS, Augmentation, View, apply, plan
from pipeline.loading.keyed import uniforms

PLAIN = Augmentation((1.0, 1.0), (1.0, 1.0), horizontal_flip=False, vertical_flip=False, color_jitter=0.0)


def image(height=6, width=6):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def view(**changes):
    return View(**({"top": 0, "left": 0, "height": 6, "width": 6, "flip_horizontal": False, "flip_vertical": False,
                    "color": None} | changes))  # fmt: skip


def rendered(source, seen, side_px=6):
    out = np.empty((side_px, side_px, 3), np.uint8)
    apply(source, seen, side_px, out)
    return out


def test_nothing_asked_for_gives_the_image():
    seen = plan(PLAIN, 6, 6, uniforms(0, np.array([1]), NUM_DRAWS)[0])
    assert np.array_equal(rendered(image(), seen), image())


def test_flips_and_crops_are_numpys():
    assert np.array_equal(rendered(image(), view(flip_horizontal=True)), image()[:, ::-1])
    assert np.array_equal(rendered(image(), view(flip_vertical=True)), image()[::-1])
    crop = view(top=1, left=2, height=4, width=4)
    assert np.array_equal(rendered(image(), crop, 4), image()[1:5, 2:6])


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**63), st.floats(0.05, 1.0))
def test_crops_lie_inside_and_keep_to_scale_and_ratio(height, width, key, least):
    wanted = Augmentation((least, 1.0), (0.75, 4 / 3), True, False, 0.0)
    seen = plan(wanted, height, width, uniforms(key, np.array([1]), NUM_DRAWS)[0])
    assert seen.top >= 0
    assert seen.left >= 0
    assert seen.top + seen.height <= height
    assert seen.left + seen.width <= width
    assert seen.height >= 1
    assert seen.width >= 1


def test_crop_areas_are_uniform_and_flips_are_even():
    wanted = Augmentation((0.2, 0.8), (1.0, 1.0), True, True, 0.0)
    views = [plan(wanted, 1000, 1000, draws) for draws in uniforms(1, np.arange(4000), NUM_DRAWS)]
    areas = np.array([seen.height * seen.width for seen in views]) / 1e6
    observed = np.histogram(areas, bins=12, range=(0.2, 0.8))[0]
    assert ((observed - 4000 / 12) ** 2 / (4000 / 12)).sum() < 11 + 6 * np.sqrt(22)
    assert np.mean([seen.flip_horizontal for seen in views]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([seen.flip_vertical for seen in views]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([seen.top / max(1, 1000 - seen.height) for seen in views]) == pytest.approx(0.5, abs=0.02)


def test_an_image_too_long_for_the_ratio_gets_the_largest_centred_crop():
    seen = plan(Augmentation((1.0, 1.0), (0.75, 4 / 3), False, False, 0.0), 10, 1000, np.full(NUM_DRAWS, 0.5))
    assert (seen.top, seen.left, seen.height, seen.width) == (0, 493, 10, 13)


def test_colour_is_brightness_then_contrast_then_saturation():
    source = np.full((4, 4, 3), (100, 60, 20), np.uint8)
    source[:2] = (40, 80, 120)
    brightness, contrast, saturation = 1.2, 0.7, 0.5
    scaled = source * brightness
    grey = scaled @ np.array([0.299, 0.587, 0.114])
    contrasted = contrast * scaled + (1 - contrast) * grey.mean()
    grey = contrasted @ np.array([0.299, 0.587, 0.114])
    wanted = saturation * contrasted + (1 - saturation) * grey[..., None]
    seen = view(height=4, width=4, color=(brightness, contrast, saturation))
    assert np.abs(rendered(source, seen, 4).astype(float) - wanted).max() <= 0.51


def test_jitter_bounds_the_factors():
    wanted = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.3)
    factors = np.array([plan(wanted, 8, 8, draws).color for draws in uniforms(2, np.arange(2000), NUM_DRAWS)])
    assert factors.min() == pytest.approx(0.7, abs=0.01)
    assert factors.max() == pytest.approx(1.3, abs=0.01)

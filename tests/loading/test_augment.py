from dataclasses import replace

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from pipeline.imaging.decode import decode_region
from pipeline.imaging.jpeg import read_jpeg_header
from pipeline.imaging.region import Region, shrunk_size
from pipeline.loading import augment
from pipeline.loading.augment import NUM_DRAWS, Augmentation, View, apply, regions_of
from pipeline.loading.keyed import uniforms

PLAIN = Augmentation((1.0, 1.0), (1.0, 1.0), horizontal_flip=False, vertical_flip=False, color_jitter=0.0)


def image(height=6, width=6):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def view(**changes):
    return View(**({"top": 0, "left": 0, "height": 6, "width": 6, "flip_horizontal": False, "flip_vertical": False,
                    "color": None} | changes))  # fmt: skip


def plan(wanted, height, width, draws_BD):
    """The views of as many images of one size as there are draws."""
    draws_BD = np.atleast_2d(draws_BD)
    return augment.plan(wanted, np.full(len(draws_BD), height), np.full(len(draws_BD), width), 6, draws_BD)


def region_of(seen, height, width, side_px, can_shrink):
    """What must be decoded of one image."""
    box = np.array([[seen.top, seen.left, seen.height, seen.width]])
    return Region(*regions_of(box, np.array([height]), np.array([width]), side_px, np.array([can_shrink]))[0].tolist())


def rendered(source, seen, side_px=6):
    out = np.empty((side_px, side_px, 3), np.uint8)
    crop = region_of(seen, *source.shape[:2], side_px, can_shrink=False)
    apply(crop.of(source), seen, side_px, out)
    return out


def test_nothing_asked_for_gives_the_image():
    (seen,) = plan(PLAIN, 6, 6, uniforms(0, np.array([1]), NUM_DRAWS))
    assert np.array_equal(rendered(image(), seen), image())


def test_flips_and_crops_are_numpys():
    assert np.array_equal(rendered(image(), view(flip_horizontal=True)), image()[:, ::-1])
    assert np.array_equal(rendered(image(), view(flip_vertical=True)), image()[::-1])
    crop = view(top=1, left=2, height=4, width=4)
    assert np.array_equal(rendered(image(), crop, 4), image()[1:5, 2:6])


@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 2**63), st.floats(0.05, 1.0))
def test_crops_lie_inside_and_keep_to_scale_and_ratio(height, width, key, least):
    wanted = Augmentation((least, 1.0), (0.75, 4 / 3), True, False, 0.0)
    (seen,) = plan(wanted, height, width, uniforms(key, np.array([1]), NUM_DRAWS))
    assert seen.top >= 0
    assert seen.left >= 0
    assert seen.top + seen.height <= height
    assert seen.left + seen.width <= width
    assert seen.height >= 1
    assert seen.width >= 1


def test_crop_areas_are_uniform_and_flips_are_even():
    wanted = Augmentation((0.2, 0.8), (1.0, 1.0), True, True, 0.0)
    views = plan(wanted, 1000, 1000, uniforms(1, np.arange(4000), NUM_DRAWS))
    areas = np.array([seen.height * seen.width for seen in views]) / 1e6
    observed = np.histogram(areas, bins=12, range=(0.2, 0.8))[0]
    assert ((observed - 4000 / 12) ** 2 / (4000 / 12)).sum() < 11 + 6 * np.sqrt(22)
    assert np.mean([seen.flip_horizontal for seen in views]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([seen.flip_vertical for seen in views]) == pytest.approx(0.5, abs=0.03)
    both = np.mean([seen.flip_horizontal and seen.flip_vertical for seen in views])
    assert both == pytest.approx(0.25, abs=0.03)  # one does not bring the other
    assert np.mean([seen.top / max(1, 1000 - seen.height) for seen in views]) == pytest.approx(0.5, abs=0.02)


def test_an_image_too_long_for_the_ratio_gets_the_largest_centred_crop():
    whole = Augmentation((1.0, 1.0), (0.75, 4 / 3), False, False, 0.0)
    wide, tall = (plan(whole, *size, np.full(NUM_DRAWS, 0.5))[0] for size in ((10, 1000), (1000, 10)))
    assert (wide.top, wide.left, wide.height, wide.width) == (0, 493, 10, 13)
    assert (tall.top, tall.left, tall.height, tall.width) == (493, 0, 13, 10)


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
    factors = np.array([seen.color for seen in plan(wanted, 8, 8, uniforms(2, np.arange(2000), NUM_DRAWS))])
    assert factors.min() == pytest.approx(0.7, abs=0.01)
    assert factors.max() == pytest.approx(1.3, abs=0.01)


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=9), st.integers(0, 2**63))
def test_a_view_is_the_same_alone_and_among_others(sizes, key):
    wanted = Augmentation((0.1, 1.0), (0.75, 4 / 3), True, True, 0.2, "augmix", erase_probability=0.5)
    draws_BD = uniforms(key, np.arange(len(sizes)), NUM_DRAWS)
    together = augment.plan(wanted, *np.array(sizes).T, 6, draws_BD)
    assert together == [plan(wanted, *size, draws)[0] for size, draws in zip(sizes, draws_BD, strict=True)]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60), st.integers(0, 2**63))
def test_a_shrunk_region_keeps_a_pixel_for_each_of_the_output_s(height, width, side_px, key):
    wanted = Augmentation((0.1, 1.0), (0.75, 4 / 3), True, True, 0.0)
    (seen,) = plan(wanted, height, width, uniforms(key, np.array([1]), NUM_DRAWS))
    region = region_of(seen, height, width, side_px, can_shrink=True)
    least = min(seen.height, seen.width)
    assert region.shrink == max(shrink for shrink in (1, 2, 4, 8) if shrink == 1 or shrink * side_px <= least)
    new_height, new_width = shrunk_size(height, width, region.shrink)
    assert min(region.height, region.width) >= min(side_px, least) - 1
    assert 0 <= region.top <= new_height - region.height
    assert 0 <= region.left <= new_width - region.width
    assert region.top * region.shrink == pytest.approx(seen.top, abs=4 * region.shrink)
    whole = region_of(seen, height, width, side_px, can_shrink=False)
    assert whole == (seen.top, seen.left, seen.height, seen.width, 1)


def test_a_shrunk_decode_shows_the_same_crop():
    smooth = cv2.resize(image(12, 16), (1600, 1200), interpolation=cv2.INTER_CUBIC)
    data = simplejpeg.encode_jpeg(smooth, quality=95, colorsubsampling="444")
    seen = view(top=201, left=403, height=600, width=700)
    shown = []
    for can_shrink in (True, False):
        region = region_of(seen, 1200, 1600, 64, can_shrink)
        assert region.shrink == (8 if can_shrink else 1)
        shown.append(np.empty((64, 64, 3), np.uint8))
        apply(decode_region(data, read_jpeg_header(data), region), seen, 64, shown[-1])
    assert np.abs(np.subtract(*shown, dtype=float)).mean() < 2.0


def test_the_policy_and_the_erasing_are_applied_after_the_crop():
    wanted = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0, "randaugment", 1, 30, erase_probability=1.0)
    changed = 0
    for draws in uniforms(3, np.arange(20), NUM_DRAWS):
        (seen,) = plan(wanted, 6, 6, draws)
        expected = augment.policies.apply(image(), seen.chains)
        if seen.erased is not None:
            expected = expected.copy()
            augment.policies.erase(expected, seen.erased)
        assert np.array_equal(rendered(image(), seen), expected)
        changed += not np.array_equal(expected, image())
    assert changed > 15


@given(st.integers(0, 2**63), st.sampled_from([1, 2, 7, 8]), st.floats(0.0, 0.5))
def test_a_shift_is_a_crop_of_the_mirrored_image(key, side_px, fraction):
    wanted = replace(PLAIN, shift_fraction=fraction)
    source = image(side_px, side_px)
    draws = uniforms(key, np.array([1]), NUM_DRAWS)
    (seen,) = augment.plan(wanted, np.array([side_px]), np.array([side_px]), side_px, draws)
    most = round(fraction * side_px)
    assert max(map(abs, seen.shift)) <= most
    wide = np.pad(source, ((most, most), (most, most), (0, 0)), "reflect") if side_px > 1 else source
    top, left = (most - moved if side_px > 1 else 0 for moved in seen.shift)
    assert np.array_equal(rendered(source, seen, side_px), wide[top : top + side_px, left : left + side_px])


def test_shifts_go_each_way_equally_often():
    wanted = replace(PLAIN, shift_fraction=0.5)
    draws_BD = uniforms(5, np.arange(4000), NUM_DRAWS)
    shifts_B2 = np.array([seen.shift for seen in augment.plan(wanted, *np.full((2, 4000), 6), 6, draws_BD)])
    assert set(shifts_B2.ravel().tolist()) == set(range(-3, 4))
    assert abs(shifts_B2.mean(0)).max() < 0.1
    assert abs(np.corrcoef(shifts_B2.T)[0, 1]) < 0.05

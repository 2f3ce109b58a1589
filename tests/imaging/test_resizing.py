import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.imaging.resizing import crop_and_resize, evaluation_view, limit_short_side, resize

SIDES = st.integers(1, 60)


@given(SIDES, SIDES, SIDES)
def test_the_short_side_is_limited_and_never_enlarged(height, width, short_side_px):
    image_HWC = np.zeros((height, width, 3), np.uint8)
    limited_HWC = limit_short_side(image_HWC, short_side_px)
    if min(height, width) <= short_side_px:
        assert limited_HWC is image_HWC
    else:
        new_height, new_width = limited_HWC.shape[:2]
        assert min(new_height, new_width) == short_side_px
        scale = short_side_px / min(height, width)
        assert abs(new_height - height * scale) <= 0.5
        assert abs(new_width - width * scale) <= 0.5


def test_shrinking_averages_and_enlarging_interpolates():
    dots_HWC = np.zeros((6, 6, 1), np.uint8)
    dots_HWC[1::3, 1::3] = 90  # in the middle of each 3 x 3, where an interpolation would look alone
    assert crop_and_resize(dots_HWC, 0, 0, 6, 6, 2).tolist() == np.full((2, 2, 1), 10).tolist()
    steps_HWC = np.array([[0, 100]], np.uint8).repeat(2, 0)[:, :, None]
    assert crop_and_resize(steps_HWC, 0, 0, 2, 2, 4)[0, :, 0].tolist() == [0, 25, 75, 100]


@pytest.mark.parametrize("shrink", [1.1, 1.25, 1.5, 1.75, 1.95, 2.0, 3.3])
def test_shrinking_is_as_near_to_pillows_antialiasing_as_averaging_is(shrink):
    noise = np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)
    height, width = round(300 / shrink), round(400 / shrink)
    antialiased_HWC = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    averaged_HWC = cv2.resize(np.array(image), (width, height), interpolation=cv2.INTER_AREA)
    of_averaging = np.abs(averaged_HWC - antialiased_HWC).mean()
    assert np.abs(resize(np.array(image), height, width) - antialiased_HWC).mean() < of_averaging + 0.5
    lines_HWC = np.tile(np.array([0, 255], np.uint8), (300, 200))[:, :, None]  # stripes, to interpolation alone
    assert resize(lines_HWC, height, width).std() < 0.53 * lines_HWC.std()


@given(st.integers(0, 255), st.floats(1.0, 2.5), st.floats(1.0, 2.5))
def test_a_flat_image_keeps_its_value_at_any_size(value, shrink_y, shrink_x):
    flat_HWC = np.full((40, 50, 3), value, np.uint8)
    assert (resize(flat_HWC, int(40 / shrink_y), int(50 / shrink_x)) == value).all()


def test_a_crop_takes_the_rectangle():
    image_HWC = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8, 1)
    np.testing.assert_array_equal(crop_and_resize(image_HWC, 1, 2, 3, 3, 3), image_HWC[1:4, 2:5])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))
def test_out_is_written_whatever_the_sizes(height, width, side_px, channels):
    image_HWC = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    batch_BHWC = np.zeros((3, side_px, side_px, channels), np.uint8)
    returned_HWC = crop_and_resize(image_HWC, 0, 0, height, width, side_px, out=batch_BHWC[1])
    expected_HWC = crop_and_resize(image_HWC, 0, 0, height, width, side_px)
    assert np.shares_memory(returned_HWC, batch_BHWC)
    np.testing.assert_array_equal(batch_BHWC[1], expected_HWC)
    assert not batch_BHWC[[0, 2]].any()
    assert expected_HWC.shape == (side_px, side_px, channels)


@pytest.mark.parametrize(("height", "width"), [(10, 20), (20, 10), (10, 21)])
def test_the_evaluation_view_is_the_centre_square(height, width):
    image_HWC = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - 10) // 2, (width - 10) // 2
    np.testing.assert_array_equal(evaluation_view(image_HWC, 10), image_HWC[top : top + 10, left : left + 10])
    out_HWC = np.zeros((10, 10, 3), np.uint8)
    assert evaluation_view(image_HWC, 10, out=out_HWC) is out_HWC
    assert out_HWC.any()

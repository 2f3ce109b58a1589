import numpy as np
import pytest

from pipeline.errors import ImageError
from pipeline.imaging.channels import RGB, Channels, as_rgb, channels_of, check_channels
from pipeline.imaging.resizing import evaluation_view, limit_short_side, resize


def noise(num_channels: int, dtype: str = "uint8", height: int = 30, width: int = 44) -> np.ndarray:
    random = np.random.default_rng(num_channels)
    return random.integers(0, np.iinfo(dtype).max, (height, width, num_channels), dtype, endpoint=True)


def test_channels_are_a_number_and_a_type():
    assert channels_of(noise(3)) == RGB
    assert channels_of(noise(5, "uint16")) == Channels(5, "uint16")
    assert [str(Channels(1, "uint16")), str(RGB)] == ["1 channel of uint16", "3 channels of uint8"]


def test_other_channels_than_the_models_are_refused():
    image_HWC = noise(5)
    assert check_channels(image_HWC, Channels(5, "uint8")) is image_HWC
    with pytest.raises(ImageError, match="has 5 channels of uint8, the model was trained on 3 channels of uint8") as e:
        check_channels(image_HWC, RGB)
    assert e.value.reason == "other_channels"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("num_channels", [1, 2, 4, 5, 13, 200])
@pytest.mark.parametrize("size", [(10, 11), (20, 35), (60, 88), (29, 43), (45, 20), (30, 44)])
def test_every_channel_is_resized_as_if_it_were_alone(num_channels, dtype, size):
    image_HWC = noise(num_channels, dtype)
    resized_HWC = resize(image_HWC, *size)
    assert resized_HWC.dtype == image_HWC.dtype
    alone = [resize(np.ascontiguousarray(image_HWC[:, :, [c]]), *size) for c in range(num_channels)]
    # Of 16 bits OpenCV rounds one channel and several in another order.
    np.testing.assert_allclose(resized_HWC.astype(int), np.concatenate(alone, axis=2).astype(int), atol=1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_views_write_where_they_are_told_and_read_what_is_read_only(dtype):
    image_HWC = noise(5, dtype)
    image_HWC.flags.writeable = False
    out_HWC = np.zeros((16, 16, 5), dtype)
    assert evaluation_view(image_HWC, 16, out=out_HWC) is out_HWC
    np.testing.assert_array_equal(out_HWC, evaluation_view(image_HWC, 16))
    assert limit_short_side(image_HWC, 15).shape == (15, 22, 5)


def test_the_eye_sees_the_first_three_channels():
    image_HWC = noise(5)
    np.testing.assert_array_equal(as_rgb(image_HWC), image_HWC[:, :, :3])
    picture_HWC = noise(3)
    assert as_rgb(picture_HWC) is picture_HWC
    np.testing.assert_array_equal(as_rgb(noise(2)), np.repeat(noise(2)[:, :, :1], 3, axis=2))


def test_sixteen_bits_are_stretched_over_the_images_own_range():
    image_HWC = np.full((4, 4, 5), 1000, np.uint16)
    image_HWC[0, 0] = 3000
    image_HWC[1, 1] = 2000
    shown_HWC = as_rgb(image_HWC)
    assert shown_HWC.dtype == np.uint8
    assert [shown_HWC[0, 0, 0], shown_HWC[1, 1, 2], shown_HWC[3, 3, 1]] == [255, 128, 0]
    assert not as_rgb(np.full((4, 4, 1), 7, np.uint16)).any()

"""Networks for any number of channels, and weights for RGB images in them."""

import dataclasses

import pytest
import safetensors.torch
import torch
from timm.models import adapt_input_conv

from pipeline.errors import ModelError
from pipeline.modeling import backbone
from pipeline.modeling import weights as weights_of
from pipeline.modeling.objective import normalize
from pipeline.modeling.stem import stem_weights

NAMES = ["test_resnet", "test_vit", "convoynet"]


CLASSES = ("a", "b", "c")


def build(name, weights=None, **changes):
    network = backbone.build(name, **({"num_classes": 3, "input_px": 32} | changes))
    if weights:
        start = dataclasses.replace(weights_of.look_at(weights, name), classes=CLASSES)
        weights_of.load(network, start, CLASSES)
    return network


@pytest.fixture(params=NAMES)
def rgb(request, tmp_path):
    """(name, weights file, the network that they are of)"""
    torch.manual_seed(0)
    source = build(request.param)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "rgb.safetensors")
    return request.param, str(tmp_path / "rgb.safetensors"), source


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_channels", [1, 2, 5, 13])
def test_any_number_of_channels_goes_in(name, num_channels):
    network = build(name, num_channels=num_channels)
    assert network(torch.zeros(2, num_channels, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("num_channels", [1, 2, 4, 5, 13])
def test_rgb_weights_are_adapted_as_timm_adapts_its_own(rgb, num_channels):
    name, weights, source = rgb
    network = build(name, num_channels=num_channels, weights=weights)
    stems = stem_weights(network)
    assert stems
    for key, value in network.state_dict().items():
        expected = source.state_dict()[key]
        if key in stems:
            assert value.shape[1] == num_channels
            expected = adapt_input_conv(num_channels, expected)
        torch.testing.assert_close(value, expected)


def test_a_grey_image_in_six_channels_is_seen_as_one_in_rgb(rgb):
    name, weights, source = rgb
    grey_BCHW = torch.rand(2, 1, 32, 32)
    network = build(name, num_channels=6, weights=weights).eval()
    with torch.inference_mode():
        expected_BK = source.eval()(grey_BCHW.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network(grey_BCHW.expand(-1, 6, -1, -1)), expected_BK, atol=1e-4, rtol=1e-4)


def test_weights_for_the_same_channels_are_taken_as_they_are(tmp_path):
    source = build("test_resnet", num_channels=5)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "five.safetensors")
    network = build("test_resnet", num_channels=5, weights=str(tmp_path / "five.safetensors"))
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("num_channels", [3, 4])
def test_weights_for_other_channels_than_rgb_are_not_adapted(tmp_path, num_channels):
    safetensors.torch.save_file(build("test_resnet", num_channels=5).state_dict(), tmp_path / "five.safetensors")
    message = rf"first layer of .*five.safetensors takes 5 channels, that of the model {num_channels}; only layers"
    with pytest.raises(ModelError, match=message):
        build("test_resnet", num_channels=num_channels, weights=str(tmp_path / "five.safetensors"))


def test_an_input_that_does_not_fit_names_the_channels():
    with pytest.raises(ModelError, match=r"cannot take images of model\.input_px=4 with 5 channels: "):
        backbone.check("test_vit", 4, num_channels=5)


def test_pixels_are_normalised_by_the_largest_value_of_their_type():
    images_BCHW = torch.tensor([0, 100, 65_535], dtype=torch.int32).to(torch.uint16).view(1, 1, 1, 3)
    normal_BCHW = normalize(images_BCHW, torch.tensor([0.25]), torch.tensor([0.5]))
    torch.testing.assert_close(normal_BCHW.flatten(), (torch.tensor([0, 100 / 65_535, 1.0]) - 0.25) / 0.5)

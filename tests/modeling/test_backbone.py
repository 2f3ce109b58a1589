import pytest
import torch

from pipeline.errors import ModelError
from pipeline.modeling import backbone


def build(name="test_resnet", **changes):
    return backbone.build(name, **({"num_classes": 3, "input_px": 32} | changes))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_any_timm_model_takes_the_input_size_and_the_classes(name):
    assert build(name)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ModelError, match=r"model\.backbone=resnet81 is not a model of timm .*did you mean .*resnet18"):
        backbone.check("resnet81", 64)
    with pytest.raises(ModelError, match=r"model\.backbone=zzzz is not .*list_models\(\) lists them, beside convoynet"):
        backbone.check("zzzz", 64)


@pytest.mark.parametrize(("name", "input_px"), [("test_vit", 4), ("vgg11", 8), ("levit_128", 100)])
def test_an_input_the_backbone_cannot_take_is_refused(name, input_px):
    with pytest.raises(ModelError, match=rf"backbone={name} cannot take images of model\.input_px={input_px}: .*Use a"):
        backbone.check(name, input_px)


def test_options_are_arguments_of_the_timm_model():
    assert build("resnet18", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}).num_features == 8


@pytest.mark.parametrize("name", ["num_classes", "drop_rate", "pretrained", "checkpoint_path", "pretrained_cfg"])
@pytest.mark.parametrize("model", ["resnet18", "convoynet"])
def test_an_option_that_is_none_of_the_constructors_is_refused(model, name):
    with pytest.raises(ModelError, match=rf"model\.options\.{name} is no argument of a backbone's constructor; model"):
        backbone.check(model, 64, {name: 1})


@pytest.mark.parametrize("options", [{"layerz": 1}])
def test_an_option_that_timm_does_not_take_is_refused(options):
    with pytest.raises(ModelError, match=r"input_px=64, model\.options=\{.*argument.*options are the arguments"):
        backbone.check("resnet18", 64, options)


@pytest.mark.parametrize(
    ("name", "sides", "options"),
    [
        ("convoynet", [32, 48, 50, 64], {}),
        ("test_resnet", [32, 33, 48, 64], {}),
        ("test_convnext", [32, 48], {}),
        ("test_vit", [32, 48], {"dynamic_img_size": True}),
    ],
)
def test_networks_of_any_side_may_grow(name, sides, options):
    backbone.check_sides(name, sides, input_px=64, options=options)
    model = build(name, input_px=64, options=options)
    for side in sides:
        assert model(torch.zeros(2, 3, side, side)).shape == (2, 3)


@pytest.mark.parametrize(("name", "input_px", "side"), [("vit_tiny_patch16_224", 64, 32), ("lenet5", 32, 28)])
def test_networks_of_one_side_may_not_grow(name, input_px, side):
    backbone.check_sides(name, [], input_px=input_px)
    with pytest.raises(
        ModelError,
        match=rf"training\.progressive_px has {side}, and model\.backbone={name}, built for model\.input_px="
        rf"{input_px}, cannot take images of that side: .*dynamic_img_size: true",
    ):
        backbone.check_sides(name, [side, input_px], input_px=input_px)

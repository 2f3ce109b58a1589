"""ConvoyNet: what its options build, what it refuses, and that timm alone opens its export."""

import json

import pytest
import timm_alone
import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.modeling import backbone, convoynet
from pipeline.registry import export


def build(**options):
    return backbone.build("convoynet", num_classes=3, input_px=64, options=options).eval()


def halvings(model: nn.Module) -> list[str]:
    """The kinds of layers off the shortcuts that halve the side, first to last; the first convolution is one."""
    return [
        type(layer).__name__
        for name, layer in model.named_modules()
        if "downsample" not in name
        and isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
        and layer.stride in (2, (2, 2))
    ]


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        ("max", ["Conv2d", "MaxPool2d", "Conv2d", "Conv2d"]),
        ("average", ["Conv2d", "AvgPool2d", "AvgPool2d", "AvgPool2d"]),
        ("strided", ["Conv2d"] * 4),
    ],
)
def test_the_pooling_is_the_one_asked_for(pooling, wanted):
    assert halvings(build(pooling=pooling)) == wanted


@pytest.mark.parametrize("pooling", convoynet.POOLINGS)
@pytest.mark.parametrize("widths", [[8, 16], [8, 24, 16], [8, 16, 24, 32]])
def test_a_stage_for_each_width_at_half_the_side_of_the_one_before(pooling, widths):
    model = build(widths=widths, pooling=pooling)
    side_px = 16 >> (len(widths) - 1)
    assert model.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, widths[-1], side_px, side_px)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_depth_is_the_blocks_of_a_stage_and_the_activation_is_everywhere():
    model = build(widths=[8, 16], depth=3, activation="gelu")
    assert [len(getattr(model, f"layer{stage}")) for stage in (1, 2, 3, 4)] == [3, 3, 0, 0]
    activations = {type(layer).__name__ for name, layer in model.named_modules() if "act" in name.split(".")[-1]}
    assert activations == {"GELU"}


def test_blocks_are_skipped_in_training_the_later_the_more_often():
    model = build(widths=[8, 16, 16], drop_path_rate=0.4)
    rates = [getattr(model, f"layer{stage}")[0].drop_path for stage in (1, 2, 3)]
    assert [getattr(rate, "drop_prob", 0.0) for rate in rates] == pytest.approx([0.0, 0.2, 0.4])
    images_BCHW = torch.rand(2, 3, 64, 64)
    torch.manual_seed(0)
    assert torch.equal(model(images_BCHW), model(images_BCHW))


def test_dropout_is_before_the_head():
    model = backbone.build("convoynet", num_classes=2, input_px=32, drop_rate=0.25)
    assert model.drop_rate == 0.25


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": "max"}, r"model\.options\.pool is not an option of convoynet; it has widths, depth, pooling, activ"),
        ({"pooling": "min"}, r"model\.options\.pooling='min' is not known; use max, average, strided\."),
        ({"activation": "tanh"}, r"model\.options\.activation='tanh' is not known; use relu, gelu, silu\."),
        ({"widths": 64}, r"model\.options\.widths=64 must list the channels of 2 to 4 stages, as \[64, 128, 256\]"),
        ({"widths": [8]}, r"widths=\[8\] must list"),
        ({"widths": [8] * 5}, r"must list the channels of 2 to 4 stages"),
        ({"widths": [8, 0.5]}, r"must list the channels"),
        ({"drop_path_rate": 1.0}, r"model\.options\.drop_path_rate=1\.0 must be a number from 0 to under 1"),
        ({"drop_path_rate": "often"}, r"drop_path_rate='often' must be a number"),
        ({"depth": 0}, r"model\.options\.depth=0 must be a number of blocks, 1 or more"),
    ],
)
def test_an_option_that_is_none_is_refused(options, said):
    with pytest.raises(ModelError, match=said):
        build(**options)


@pytest.mark.parametrize("pooling", convoynet.POOLINGS)
def test_timm_opens_its_export_without_this_project(pooling, tmp_path):
    torch.manual_seed(0)
    model = build(widths=[8, 16], pooling=pooling, activation="silu")
    export.write(
        tmp_path / "model", model, backbone="convoynet", classes=["a", "b", "c"], input_px=64, num_channels=3,
        mean=[0.5] * 3, std=[0.2] * 3,
    )  # fmt: skip
    assert export.load(tmp_path / "model").backbone == "convoynet"
    timm_alone.answers_alike(tmp_path / "model", model, tmp_path)
    config = json.loads((tmp_path / "model" / export.CONFIG).read_text())
    assert (config["architecture"], config["convoy"]["backbone"]) == (convoynet.ARCHITECTURE, "convoynet")

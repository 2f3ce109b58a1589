"""The classics against their papers: shapes, parameters, and an export that comes back."""

import subprocess
import sys

import pytest
import timm
import torch
from torch import nn

import pipeline.networks
from pipeline.networks import lenet
from pipeline.registry import export


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet_has_the_papers_parameters_layer_by_layer():
    model = timm.create_model("lenet5", in_chans=1)
    counts = {name: num_parameters(layer) for name, layer in model.named_children()}
    assert counts.pop("output") == 84 * 10 + 10  # the one layer that is not the paper's
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}
    assert sum(counts.values()) == 60_000


def test_lenets_maps_have_the_papers_sizes():
    model, sizes = timm.create_model("lenet5", in_chans=1), {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda layer, given, out, name=name: sizes.update({name: tuple(out.shape[1:])}))
    model(torch.zeros(1, 1, 32, 32))
    assert sizes == {
        "c1": (6, 28, 28), "s2": (6, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "c5": (120, 1, 1),
        "f6": (84,), "output": (10,),
    }  # fmt: skip


def test_a_map_of_c3_sees_the_maps_of_s2_that_table_1_gives_it_and_no_other():
    layer = timm.create_model("lenet5").c3
    maps_BCHW = torch.randn(1, 6, 14, 14, requires_grad=True)
    for output, inputs in enumerate(lenet.S2_MAPS_OF_C3_MAPS):
        (gradient_BCHW,) = torch.autograd.grad(layer(maps_BCHW)[0, output].sum(), maps_BCHW)
        assert tuple(gradient_BCHW[0].abs().sum((1, 2)).nonzero()[:, 0].tolist()) == inputs
    assert sum(map(len, lenet.S2_MAPS_OF_C3_MAPS)) == 60


def test_a_sub_sampling_by_hand():
    layer = lenet.SubSampling(1)
    layer.coefficient_C.data.fill_(0.5)
    layer.bias_C.data.fill_(-1.0)
    assert layer(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).item() == 0.5 * 10 - 1


def test_lenet_takes_no_other_side():
    with pytest.raises(ValueError, match=r"LeNet-5 takes 32 x 32 pixels, not 64 x 64"):
        timm.create_model("lenet5")(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("alexnet", 61_100_840),  # one column of the network of 2012: its five layers, without groups
        ("vgg11", 132_863_336),  # table 2 of the paper: 133 million (A), 138 million (D)
        ("vgg16", 138_357_544),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
    ],
)
def test_a_classic_has_its_papers_parameters(name, wanted):
    with torch.device("meta"):
        model = timm.create_model(name)
        assert num_parameters(model) == wanted
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_alexnets_maps_have_their_sizes():
    with torch.device("meta"):
        model = timm.create_model("alexnet").eval()
        maps_BCHW, sizes = torch.empty(1, 3, 224, 224), []
        for layer in model.features:
            maps_BCHW = layer(maps_BCHW)
            if isinstance(layer, nn.Conv2d):
                sizes.append(tuple(maps_BCHW.shape[1:]))
        assert sizes == [(64, 55, 55), (192, 27, 27), (384, 13, 13), (256, 13, 13), (256, 13, 13)]
        assert model.forward_features(torch.empty(1, 3, 224, 224)).shape == (1, 256, 6, 6)


@pytest.mark.parametrize(("name", "input_px"), [("lenet5", 32), ("alexnet", 64)])
@pytest.mark.parametrize("num_channels", [1, 3, 5])
def test_an_exported_classic_comes_back(name, input_px, num_channels, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2, in_chans=num_channels).eval()
    export.write(
        tmp_path, model, backbone=name, classes=["a", "b"], input_px=input_px, num_channels=num_channels,
        mean=[0.5] * num_channels, std=[0.2] * num_channels,
    )  # fmt: skip
    images_BCHW = torch.randn(2, num_channels, input_px, input_px)
    with torch.inference_mode():
        torch.testing.assert_close(export.load(tmp_path).model(images_BCHW), model(images_BCHW))


def test_timm_knows_them_by_this_import_alone():
    code = "import timm; print(timm.is_model('lenet5')); import pipeline.networks; print(timm.is_model('lenet5'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\nTrue\n"
    assert pipeline.networks.__all__ == ["alexnet", "lenet5"]


@pytest.mark.parametrize(("name", "input_px"), [("lenet5", 32), ("alexnet", 64)])
def test_the_head_is_the_classifier_over_its_features(name, input_px):
    model = timm.create_model(name, num_classes=3, drop_rate=0.5).eval()
    images_BCHW = torch.randn(2, 3, input_px, input_px)
    features_BC = model.forward_head(model.forward_features(images_BCHW), pre_logits=True)
    assert features_BC.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(model.get_classifier()(features_BC), model(images_BCHW))

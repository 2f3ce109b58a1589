import json
import re

import pytest
import safetensors.torch
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
        backbone.check("resnet81", "none", 64)
    with pytest.raises(ModelError, match=r"model\.backbone=zzzz is not .*list_models\(\) lists them, beside convoynet"):
        backbone.check("zzzz", "none", 64)


@pytest.mark.parametrize(("name", "input_px"), [("test_vit", 4), ("vgg11", 8), ("levit_128", 100)])
def test_an_input_the_backbone_cannot_take_is_refused(name, input_px):
    with pytest.raises(ModelError, match=rf"backbone={name} cannot take images of model\.input_px={input_px}: .*Use a"):
        backbone.check(name, "none", input_px)


@pytest.mark.parametrize("weights", ["nowhere.safetensors", "model.pt"])
def test_weights_that_are_no_safetensors_file_are_refused(tmp_path, weights):
    (tmp_path / "model.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"only safetensors are read, because a pickle can run code"):
        backbone.check("test_resnet", str(tmp_path / weights), 64)


def test_weights_of_a_file_are_loaded_and_another_head_starts_anew(tmp_path):
    torch.manual_seed(0)
    source = build(num_classes=3)
    safetensors.torch.save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(1)
    same, other = (build(num_classes=k, weights=str(tmp_path / "w.safetensors")) for k in (3, 5))
    assert torch.equal(same.fc.weight, source.fc.weight)
    assert other.fc.weight.shape[0] == 5
    for name, value in source.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(other.state_dict()[name], value)


def test_weights_of_another_backbone_are_refused(tmp_path):
    safetensors.torch.save_file(build("test_vit").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"does not fit model\.backbone=test_resnet: \d+ tensors are missing"):
        build(weights=str(tmp_path / "w.safetensors"))


def test_an_exported_folder_of_another_backbone_is_refused(tmp_path):
    safetensors.torch.save_file(build("test_vit").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    with pytest.raises(ModelError, match=re.escape(f"{tmp_path} holds a test_vit")):
        build(weights=str(tmp_path))


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match="is no whole safetensors file"):
        build(weights=str(tmp_path / "w.safetensors"))


def test_pretrained_weights_without_a_network_say_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"pretrained weights of test_resnet could not be fetched .* model\.weights"):
        build(weights="pretrained")


def test_digests_tell_starting_weights_apart(tmp_path):
    for name, value in (("a", 0.0), ("b", 1.0)):
        safetensors.torch.save_file({"x": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    digests = {backbone.weights_digest("test_resnet", str(tmp_path / f"{name}.safetensors")) for name in "ab"}
    digests |= {backbone.weights_digest("test_resnet", weights) for weights in ("none", "pretrained")}
    assert len(digests) == 4


def test_options_are_arguments_of_the_timm_model():
    assert build("resnet18", options={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}).num_features == 8


@pytest.mark.parametrize("options", [{"layerz": 1}, {"num_classes": 5}, {"drop_rate": 0.5}])
def test_an_option_that_timm_does_not_take_is_refused(options):
    with pytest.raises(ModelError, match=r"input_px=64, model\.options=\{.*argument.*options are the arguments"):
        backbone.check("resnet18", "none", 64, options)


def test_pretrained_weights_that_nobody_has_are_refused():
    with pytest.raises(ModelError, match=r"there are no pretrained weights of lenet5; use model\.weights: none, or"):
        backbone.check("lenet5", "pretrained", 32)

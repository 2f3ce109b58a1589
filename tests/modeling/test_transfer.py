"""Which layers are trained when, and how fast: against timm's own layer decay, and by hand."""

import pytest
import timm
import timm.optim
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ModelError
from pipeline.modeling import backbone, optimizer, transfer
from pipeline.modeling.weights import head_tensors

NAMES = ["test_resnet", "test_vit", "test_convnext", "convoynet", "lenet5", "alexnet"]


def build(name="test_resnet"):
    return backbone.build(name, num_classes=3, input_px={"lenet5": 32}.get(name, 64))


def freeze(model, mode, epoch=0, every=1, freeze_normalisation=False):
    return transfer.freeze(
        model, epoch=epoch, mode=mode, unfreeze_every_epochs=every, freeze_normalisation=freeze_normalisation
    )


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_groups_hold_every_parameter_once_and_end_with_the_classifier(name):
    model = build(name)
    made = transfer.groups(model)
    assert len(made) >= 4
    assert sorted(each for group in made for each in group) == sorted(each for each, _ in model.named_parameters())
    assert set(made[-1]) == head_tensors(model)
    assert next(iter(model.state_dict())) in made[0]


def test_groups_of_a_resnet_are_its_stages():
    first = [{name.split(".")[0] for name in group} for group in transfer.groups(build())]
    assert first == [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}, {"fc"}]


@pytest.mark.parametrize("name", NAMES)
def test_scales_of_the_learning_rate_are_timms(name):
    model = build(name)
    mine = transfer.lr_scales(model, 0.7)
    names = {id(parameter): each for each, parameter in model.named_parameters()}
    theirs = timm.optim.param_groups_layer_decay(model, layer_decay=0.7)
    wanted = {names[id(parameter)]: group["lr_scale"] for group in theirs for parameter in group["params"]}
    assert mine == pytest.approx(wanted)
    assert len(set(mine.values())) > 2
    assert set(transfer.lr_scales(model, 1.0).values()) == {1.0}


def test_the_optimizer_keeps_scale_and_decay_of_every_parameter():
    model = build()
    scales = transfer.lr_scales(model, 0.5)
    made = optimizer.build(model, name="sgd", lr=0.1, weight_decay=0.2, momentum=0.9, lr_scales=scales)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = {}
    for group in made.param_groups:
        for parameter in group["params"]:
            seen[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    assert seen == {
        name: (scales[name], 0.2 if parameter.ndim > 1 else 0.0) for name, parameter in model.named_parameters()
    }


def test_a_network_that_knows_no_groups_is_told_so():
    model = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"Linear does not say how its layers are grouped, which transfer\.lr_decay"):
        transfer.lr_scales(model, 0.5)
    with pytest.raises(ModelError, match=r"which transfer\.gradual needs; use transfer\.mode: full or probe with"):
        transfer.groups(model)


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_trains_the_classifier_and_keeps_all_statistics(name):
    model = build(name)
    still = freeze(model, "probe")
    assert trained(model) == head_tensors(model)
    body = [layer for layer in model.modules() if isinstance(layer, transfer.NORMALISATION)]
    assert [id(layer) for layer in still] == [id(layer) for layer in body]


def test_gradually_one_stage_more_is_trained_from_the_head_down():
    model = build()
    seen = []
    for epoch in range(13):
        still = freeze(model, "gradual", epoch, every=2)
        parts = {name.split(".")[0] for name in trained(model)}
        seen.append(len(parts - {"bn1"}))
        frozen = {id(layer) for layer in model.modules() if isinstance(layer, transfer.NORMALISATION)} - {
            id(layer)
            for part in parts
            for layer in getattr(model, part).modules()
            if isinstance(layer, transfer.NORMALISATION)
        }
        assert {id(layer) for layer in still} == frozen
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_normalisation_can_stay_while_everything_else_is_trained():
    model = build()
    still = freeze(model, "full", freeze_normalisation=True)
    assert len(still) == sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert len(trained(model)) == len(list(model.parameters())) - 2 * len(still)
    assert freeze(model, "full") == []
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_normalisation_without_weights_is_trained_with_the_rest():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, affine=False))
    assert freeze(model, "full") == []


@given(
    st.sampled_from(["full", "probe", "gradual"]), st.integers(1, 30), st.integers(1, 7), st.integers(2, 9), st.data()
)
def test_the_epochs_alike_are_those_that_train_the_same(mode, num_epochs, every, num_groups, data):
    epoch = data.draw(st.integers(0, num_epochs - 1))
    count = transfer.num_epochs_alike(
        epoch, num_epochs, mode=mode, unfreeze_every_epochs=every, num_groups=lambda: num_groups
    )

    def at(each):
        return transfer.num_trained(each, mode=mode, unfreeze_every_epochs=every, num_groups=num_groups)

    assert {at(each) for each in range(epoch, epoch + count)} == {at(epoch)}
    assert epoch + count == num_epochs or at(epoch + count) == at(epoch) + 1


def test_no_gradient_is_left(tmp_path):
    model = build()
    model(torch.zeros(2, 3, 64, 64)).sum().backward()
    transfer.clear_gradients(model)
    assert all(parameter.grad is None for parameter in model.parameters())

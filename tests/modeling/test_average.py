"""The average follows its model wherever that is moved."""

import torch
from torch import nn

from pipeline.modeling.average import Average


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_running_statistics_are_those_of_the_model_after_it_was_moved():
    model = network()
    average = Average(model, 0.9)
    average.update(model)
    model.double().float()  # as a move to another device does, this replaces buffers and keeps parameters
    model(torch.randn(2, 3, 8, 8))
    average.update(model)
    for mine, theirs in zip(average.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert float(average.model[1].num_batches_tracked) == 1.0


def test_weights_go_towards_the_models():
    model = network()
    average = Average(model, 0.9)
    before = average.model[0].weight.clone()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    average.update(model)
    torch.testing.assert_close(average.model[0].weight, before + 0.9)  # of min(0.9, 1 / 10)

"""Objective, optimizer, schedule and average, each against a second way to the same number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.modeling import objective, optimizer
from pipeline.modeling.average import Average
from pipeline.modeling.schedule import lr_factor


def test_normalize_is_scale_minus_mean_over_std():
    images_BCHW = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean_C, std_C = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.1])
    wanted = (images_BCHW.double() / 255 - mean_C.view(1, 3, 1, 1)) / std_C.view(1, 3, 1, 1)
    torch.testing.assert_close(objective.normalize(images_BCHW, mean_C, std_C).double(), wanted, atol=2e-6, rtol=0)


def test_normalize_keeps_channels_last():
    images_BCHW = torch.zeros(2, 3, 4, 4, dtype=torch.uint8).to(memory_format=torch.channels_last)
    out = objective.normalize(images_BCHW, torch.zeros(3), torch.ones(3))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_smoothed_cross_entropy_by_hand():
    logits_BK, smoothing = torch.tensor([[2.0, 0.0, -1.0]]), 0.3
    log_p = torch.log_softmax(logits_BK.double(), 1)[0]
    wanted = -(1 - smoothing) * log_p[1] - smoothing * log_p.mean()
    assert float(objective.cross_entropy(logits_BK, torch.tensor([1]), smoothing)) == pytest.approx(float(wanted))


def test_evaluation_sums_ignore_padding_and_add_up():
    generator = torch.Generator().manual_seed(1)
    logits_BK = torch.randn(10, 4, generator=generator)
    labels_B = torch.randint(0, 4, (10,), generator=generator)
    mask_B = torch.tensor([True] * 7 + [False] * 3)
    whole = objective.evaluation_sums(logits_BK, labels_B, mask_B)
    parts = sum(
        objective.evaluation_sums(logits_BK[cut], labels_B[cut], mask_B[cut])
        for cut in (slice(0, 3), slice(3, 8), slice(8, 10))
    )
    torch.testing.assert_close(whole, parts, atol=1e-12, rtol=0)
    losses = -torch.log_softmax(logits_BK, 1)[torch.arange(7), labels_B[:7]].double()
    assert whole.tolist() == pytest.approx(
        [float(losses.sum()), int((logits_BK[:7].argmax(1) == labels_B[:7]).sum()), 7], abs=1e-5
    )


def test_decay_is_for_matrices_and_kernels():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    for name in ("adamw", "sgd"):
        made = optimizer.build(model, name=name, lr=0.1, weight_decay=0.5, momentum=0.9)
        decayed, plain = made.param_groups
        assert [group["weight_decay"] for group in made.param_groups] == [0.5, 0.0]
        assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
        assert len(plain["params"]) == 4
    assert isinstance(made, torch.optim.SGD)


def test_momentum_is_adamws_first_beta():
    model = torch.nn.Linear(2, 2)
    made = optimizer.build(model, name="adamw", lr=0.1, weight_decay=0.0, momentum=0.8)
    assert made.param_groups[0]["betas"] == (0.8, 0.999)


@given(st.integers(2, 500), st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_climbs_then_falls_to_its_final_fraction(num_steps, warmup, final):
    factors = [lr_factor(step, num_steps, warmup_fraction=warmup, final_lr_fraction=final) for step in range(num_steps)]
    num_warmup = round(warmup * num_steps)
    assert factors[:num_warmup] == sorted(factors[:num_warmup])
    assert factors[num_warmup:] == sorted(factors[num_warmup:], reverse=True)
    assert max(factors) <= 1 + 1e-12
    if num_steps - num_warmup >= 2:
        assert factors[-1] == pytest.approx(final)
        assert factors[num_warmup] == pytest.approx(1.0)


def test_the_cosine_half_way():
    factor = lr_factor(50, 101, warmup_fraction=0.0, final_lr_fraction=0.2)
    assert factor == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_average_by_hand():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1, affine=False))
    with torch.no_grad():
        model[0].weight.fill_(0.0)
    average = Average(model, decay=0.5)
    wanted = 0.0
    for n, weight in enumerate([1.0, 2.0, 4.0]):
        with torch.no_grad():
            model[0].weight.fill_(weight)
            model[1].running_mean.fill_(weight)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * weight
        assert float(average.model[0].weight) == pytest.approx(wanted)
        assert float(average.model[1].running_mean) == weight
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())

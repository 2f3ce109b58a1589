"""Objective, optimizer, schedule and average, each against a second way to the same number."""

import itertools
import math

import numpy as np
import pytest
import sklearn.utils.class_weight
import timm.loss
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


def loss(name="cross_entropy", smoothing=0.0, balance="none", counts=(1, 1, 1)):
    return objective.Loss(name, label_smoothing=smoothing, balance=balance, class_counts=counts)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(12, 3, generator=generator), torch.randint(0, 3, (12,), generator=generator)


def test_smoothed_cross_entropy_by_hand():
    logits_BK, smoothing = torch.tensor([[2.0, 0.0, -1.0]]), 0.3
    log_p = torch.log_softmax(logits_BK.double(), 1)[0]
    wanted = -(1 - smoothing) * log_p[1] - smoothing * log_p.mean()
    assert float(loss(smoothing=smoothing)(logits_BK, torch.tensor([1]))) == pytest.approx(float(wanted))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_bce_is_timms(batch, smoothing):
    logits_BK, labels_B = batch
    wanted = timm.loss.BinaryCrossEntropy(smoothing=smoothing)(logits_BK, labels_B)
    assert float(loss("bce", smoothing)(logits_BK, labels_B)) == pytest.approx(float(wanted), rel=1e-5)


def test_focal_by_hand(batch):
    logits_BK, labels_B = batch
    chances_B = logits_BK.double().softmax(1)[torch.arange(12), labels_B]
    wanted = (-((1 - chances_B) ** 2) * chances_B.log()).mean()
    assert float(loss("focal")(logits_BK, labels_B)) == pytest.approx(float(wanted), rel=1e-5)


def test_class_weights_are_scikit_learns(batch):
    logits_BK, labels_B = batch
    counts = (60, 30, 10)
    every_label = np.repeat(np.arange(3), counts)
    weights = sklearn.utils.class_weight.compute_class_weight("balanced", classes=np.arange(3), y=every_label)
    losses_B = torch.nn.functional.cross_entropy(logits_BK, labels_B, reduction="none").double()
    wanted = (losses_B * torch.tensor(weights)[labels_B]).mean()
    mine = loss(balance="class_weights", counts=counts)(logits_BK, labels_B)
    assert float(mine) == pytest.approx(float(wanted), rel=1e-5)


def test_logit_adjustment_makes_the_prior_the_best_answer_to_no_evidence():
    """With logits of nothing, the expected loss over the prior is its entropy: the least that any answer can have."""
    counts = torch.tensor([60, 30, 10])
    labels_B = torch.repeat_interleave(torch.arange(3), counts)
    made = loss(balance="logit_adjustment", counts=counts.tolist())
    prior = counts.double() / 100
    assert float(made(torch.zeros(100, 3), labels_B)) == pytest.approx(-float((prior * prior.log()).sum()), rel=1e-5)


def test_a_class_without_a_sample_leaves_the_loss_finite(batch):
    for balance in ("class_weights", "logit_adjustment"):
        assert loss(balance=balance, counts=(10, 0, 5))(*batch).isfinite()


@pytest.mark.parametrize("name", ["cross_entropy", "bce", "focal"])
@pytest.mark.parametrize("balance", ["none", "class_weights", "logit_adjustment"])
def test_the_mean_of_two_ranks_is_the_whole_batchs(batch, name, balance):
    logits_BK, labels_B = batch
    made = loss(name, 0.1, balance, (60, 30, 10))
    halves = [made(logits_BK[cut], labels_B[cut]) for cut in (slice(0, 6), slice(6, 12))]
    assert float(sum(halves) / 2) == pytest.approx(float(made(logits_BK, labels_B)), rel=1e-6)


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


def one_step_of(made, parameter, gradient):
    parameter.grad = gradient.clone()
    made.step()
    return parameter.detach().double()


@pytest.fixture
def matrix():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)


@pytest.mark.parametrize("is_thawing", [False, True])  # fused, and not
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_with_nesterovs_momentum_by_hand(matrix, momentum, is_thawing):
    weight, gradient = matrix
    layer = torch.nn.Linear(4, 6)
    layer.weight.data.copy_(weight)
    made = optimizer.build(layer, name="sgd", lr=0.1, weight_decay=0.02, momentum=momentum, is_thawing=is_thawing)
    wanted, velocity = weight.double(), torch.zeros(6, 4)
    for factor in (1.0, -0.5, 2.0):
        mine = one_step_of(made, layer.weight, factor * gradient)
        slope = factor * gradient.double() + 0.02 * wanted
        velocity = momentum * velocity + slope
        wanted = wanted - 0.1 * (slope + momentum * velocity)  # Nesterov's look-ahead
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)


def test_lamb_by_hand(matrix):
    weight, gradient = matrix
    layer = torch.nn.Linear(4, 6)
    layer.weight.data.copy_(weight)
    made = optimizer.build(layer, name="lamb", lr=0.1, weight_decay=0.02, momentum=0.9)
    mine = one_step_of(made, layer.weight, gradient)
    weight, gradient = weight.double(), gradient.double()
    update = gradient / (gradient.abs() + 1e-6) + 0.02 * weight  # after the first step's bias correction
    wanted = weight - 0.1 * weight.norm() / update.norm() * update
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)


def test_muon_turns_a_matrix_by_its_gradients_polar_factor_and_goes_by_adamw_elsewhere(matrix):
    weight, gradient = matrix
    layer = torch.nn.Linear(4, 6)
    layer.weight.data.copy_(weight)
    layer.bias.data.fill_(1.0)
    made = optimizer.build(layer, name="muon", lr=0.1, weight_decay=0.02, momentum=0.9)
    layer.bias.grad = torch.full((6,), -3.0)
    mine = one_step_of(made, layer.weight, gradient)
    u, _, vt = torch.linalg.svd(gradient.double(), full_matrices=False)
    wanted = weight.double() * (1 - 0.1 * 0.02) - 0.1 * 0.2 * math.sqrt(6) * u @ vt
    torch.testing.assert_close(mine, wanted, atol=3e-3, rtol=0)  # Newton-Schulz in bfloat16
    assert (wanted - weight.double()).abs().max() > 0.02
    look_ahead = 1.0 + 0.9  # Nesterov's, over the bias correction of the first step
    assert layer.bias.detach().tolist() == pytest.approx([1.0 + 0.1 * look_ahead] * 6, abs=1e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "muon"])
def test_an_optimizers_state_goes_through_a_checkpoint(name, tmp_path):
    def trained(num_steps, state=None):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2))
        made = optimizer.build(model, name=name, lr=0.01, weight_decay=0.1, momentum=0.9)
        if state:
            model.load_state_dict(state["model"])
            made.load_state_dict(state["optimizer"])
        for _ in range(num_steps):
            made.zero_grad()
            model(torch.ones(1, 3, 3, 3)).square().sum().backward()
            made.step()
        return {"model": model.state_dict(), "optimizer": made.state_dict()}

    torch.save(trained(3), tmp_path / "state.pt")
    resumed = trained(2, torch.load(tmp_path / "state.pt", weights_only=True))["model"]
    assert all(torch.equal(resumed[key], value) for key, value in trained(5)["model"].items())


SHAPES = ("cosine", "linear", "step", "one_cycle", "constant")


@given(st.sampled_from(SHAPES), st.integers(2, 500), st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_climbs_then_falls_to_its_final_fraction(name, num_steps, warmup, final):
    factors = [
        lr_factor(step, num_steps, name=name, warmup_fraction=warmup, final_lr_fraction=final)
        for step in range(num_steps)
    ]
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(factors[peak:]))
    assert max(factors) <= 1 + 1e-12
    if num_steps - round(warmup * num_steps) >= 2:
        wanted = {"constant": 1.0, "step": 0.01}.get(name, final)
        assert factors[-1] == pytest.approx(wanted)
        if name != "one_cycle":
            assert factors[round(warmup * num_steps)] == pytest.approx(1.0)


def test_the_cosine_half_way():
    factor = lr_factor(50, 101, name="cosine", warmup_fraction=0.0, final_lr_fraction=0.2)
    assert factor == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 2)))


def factors_of(scheduler_of, num_steps):
    """What a scheduler of torch's makes of a rate of 1."""
    made = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, factors = scheduler_of(made), []
    for _ in range(num_steps):
        factors.append(made.param_groups[0]["lr"])
        made.step()
        scheduler.step()
    return factors


def ours(name, num_steps, warmup, final):
    return [
        lr_factor(step, num_steps, name=name, warmup_fraction=warmup, final_lr_fraction=final)
        for step in range(num_steps)
    ]


@pytest.mark.parametrize(("warmup", "final"), [(0.3, 0.001), (0.1, 0.2)])
def test_one_cycle_is_torchs(warmup, final):
    def torchs(made):
        return torch.optim.lr_scheduler.OneCycleLR(
            made, max_lr=1.0, total_steps=51, pct_start=warmup, final_div_factor=1 / (25 * final), cycle_momentum=False
        )

    assert ours("one_cycle", 51, warmup, final) == pytest.approx(factors_of(torchs, 51))


def test_steps_are_torchs():
    wanted = factors_of(lambda made: torch.optim.lr_scheduler.MultiStepLR(made, [50, 75]), 101)
    assert ours("step", 101, 0.0, 0.0) == pytest.approx(wanted)


def test_linear_is_torchs():
    wanted = factors_of(lambda made: torch.optim.lr_scheduler.LinearLR(made, 1.0, 0.2, 100), 101)
    assert ours("linear", 101, 0.0, 0.2) == pytest.approx(wanted)


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

"""The loss of samples with any number of classes, against its definition written out."""

import numpy as np
import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.modeling.objective import FOCAL_GAMMA, build_loss, check

COUNTS, NUM_SAMPLES = [2, 50, 0], 100


def loss_of(name: str, *, smoothing: float = 0.0, balance: str = "none"):
    return build_loss(
        name,
        label_smoothing=smoothing,
        balance=balance,
        class_counts=COUNTS,
        num_samples=NUM_SAMPLES,
        multi_label=True,
    )


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits_BK = 3 * torch.randn(6, 3, generator=random)
    return logits_BK, torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).to(torch.uint8)


def written_out(logits_BK, hot_BK, *, smoothing=0.0, weights_K=(1.0, 1.0, 1.0), gamma=0.0) -> float:
    chances = 1.0 / (1.0 + np.exp(-logits_BK.double().numpy()))
    hot = hot_BK.double().numpy()
    targets = hot * (1.0 - smoothing) + (1.0 - hot) * 0.0 + smoothing / 2
    losses = -(np.array(weights_K) * targets * np.log(chances) + (1.0 - targets) * np.log(1.0 - chances))
    right = hot * chances + (1.0 - hot) * (1.0 - chances)
    return float((losses * (1.0 - right) ** gamma).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy(case, smoothing):
    assert loss_of("bce", smoothing=smoothing)(*case).item() == pytest.approx(
        written_out(*case, smoothing=smoothing), rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal(case, smoothing):
    expected = written_out(*case, smoothing=smoothing, gamma=FOCAL_GAMMA)
    assert loss_of("focal", smoothing=smoothing)(*case).item() == pytest.approx(expected, rel=1e-4)


def test_class_weights_are_negatives_per_positive_and_a_class_without_images_counts_as_one(case):
    expected = written_out(*case, weights_K=(98 / 2, 50 / 50, 99 / 1))
    assert loss_of("bce", balance="class_weights")(*case).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balance", ["none", "class_weights"])
def test_mixed_images_have_a_share_of_the_labels_of_both(case, balance):
    logits_BK, hot_BK = case
    others_BK, shares_B = hot_BK.flip(0), torch.linspace(0.0, 1.0, 6)
    mixed = loss_of("bce", balance=balance)(logits_BK, hot_BK, others_BK, shares_B)
    soft_BK = shares_B[:, None] * hot_BK + (1.0 - shares_B[:, None]) * others_BK
    weights_K = (98 / 2, 1.0, 99.0) if balance == "class_weights" else (1.0, 1.0, 1.0)
    assert mixed.item() == pytest.approx(written_out(logits_BK, soft_BK, weights_K=weights_K), rel=1e-5)


def test_every_class_is_a_question_of_its_own(case):
    """The gradient of one logit does not see the others."""
    logits_BK, hot_BK = case
    gradients = []
    for shift in (0.0, 5.0):
        moved_BK = logits_BK.clone()
        moved_BK[:, 2] += shift
        moved_BK.requires_grad_()
        loss_of("bce")(moved_BK, hot_BK).backward()
        gradients.append(moved_BK.grad[:, :2])
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("name", "balance", "message"),
    [
        (
            "cross_entropy",
            "none",
            r"training\.loss=cross_entropy takes .* use training\.loss: bce, or focal",
        ),
        (
            "bce",
            "logit_adjustment",
            r"balance=logit_adjustment weighs .* use training\.balance: class_weights",
        ),
    ],
)
def test_what_takes_an_image_for_one_class_is_refused(name, balance, message):
    with pytest.raises(ParamsError, match=message):
        check(name, balance, multi_label=True)
    check(name, balance, multi_label=False)

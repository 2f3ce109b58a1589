"""Mixup and cutmix against torchvision's, which mixes a batch with itself rolled by one: with two images, a pair."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.modeling import objective
from pipeline.modeling.mixing import NUM_DRAWS, Mixing, mix_images, of_neighbours, plan

HEIGHT, WIDTH, NUM_CLASSES = 13, 17, 5


def draws(num_pairs, seed=0):
    return np.random.default_rng(seed).random((num_pairs, NUM_DRAWS))


@pytest.fixture
def images():
    images_BCHW = torch.randn(40, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    return images_BCHW.to(memory_format=torch.channels_last)


@pytest.fixture
def labels():
    return torch.randint(0, NUM_CLASSES, (40,), generator=torch.Generator().manual_seed(2))


def soft_targets(labels_B, mix):
    shares_B = torch.from_numpy(np.repeat(mix.shares_P, 2))[:, None]
    own, other = (F.one_hot(each, NUM_CLASSES).float() for each in (labels_B, of_neighbours(labels_B)))
    return shares_B * own + (1 - shares_B) * other


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_and_targets_are_torchvisions(images, labels, kind):
    mixing = {"mixup": Mixing(0.8, 0.0), "cutmix": Mixing(0.0, 1.0)}[kind]
    mix = plan(mixing, draws(20), HEIGHT, WIDTH)
    mixed_BCHW, targets_BK = mix_images(images, mix), soft_targets(labels, mix)
    for pair in range(20):
        here = slice(2 * pair, 2 * pair + 2)
        share = float(mix.shares_P[pair])
        top, left, bottom, right = mix.boxes_P4[pair].tolist()
        own_labels, own_images = labels[here], tv_tensors.Image(images[here].contiguous())
        given = {"labels": own_labels, "batch_size": 2}
        if kind == "mixup":
            transform = v2.MixUp(num_classes=NUM_CLASSES)
            given["lam"] = share
        else:
            transform = v2.CutMix(num_classes=NUM_CLASSES)
            given |= {"box": (left, top, right, bottom), "lam_adjusted": share}
        torch.testing.assert_close(mixed_BCHW[here], torch.Tensor(transform.transform(own_images, given)))
        torch.testing.assert_close(targets_BK[here], transform.transform(own_labels, given))


def test_a_box_is_the_one_that_torchvision_would_cut():
    """Its own draws, put into ours."""
    transform = v2.CutMix(num_classes=NUM_CLASSES)
    for seed in range(30):
        torch.manual_seed(seed)
        given = transform.make_params([tv_tensors.Image(torch.zeros(2, 3, HEIGHT, WIDTH))])
        torch.manual_seed(seed)
        share = float(transform._dist.sample(()))
        column, row = (int(torch.randint(size, size=(1,))) for size in (WIDTH, HEIGHT))
        draw = [[0.0, share, (row + 0.5) / HEIGHT, (column + 0.5) / WIDTH]]  # Beta(1, 1) is uniform
        mix = plan(Mixing(0.0, 1.0), np.array(draw), HEIGHT, WIDTH)
        left, top, right, bottom = given["box"]
        assert mix.boxes_P4[0].tolist() == [top, left, bottom, right]
        assert mix.shares_P[0] == pytest.approx(given["lam_adjusted"], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_of_their_beta_distribution(alpha):
    mix = plan(Mixing(alpha, 0.0), draws(4000), HEIGHT, WIDTH)
    assert scipy.stats.kstest(mix.shares_P, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_with_both_each_is_as_frequent_and_a_cut_pair_is_never_blended(images):
    mix = plan(Mixing(0.4, 1.0), draws(4000), HEIGHT, WIDTH)
    assert 0.46 < mix.is_cut_P.mean() < 0.54
    assert not mix.boxes_P4[~mix.is_cut_P].any()
    some = plan(Mixing(0.4, 1.0), draws(20), HEIGHT, WIDTH)
    mixed_BCHW, cut = mix_images(images, some), np.repeat(some.is_cut_P, 2)
    either = (mixed_BCHW == images) | (mixed_BCHW == of_neighbours(images))
    assert either[torch.from_numpy(cut)].all()
    assert not either[torch.from_numpy(~cut)].all()


def test_the_layout_stays_and_the_images_are_not_touched(images):
    before = images.clone()
    for mixing in (Mixing(1.0, 0.0), Mixing(0.0, 1.0)):
        assert mix_images(images, plan(mixing, draws(20), HEIGHT, WIDTH)).is_contiguous(
            memory_format=torch.channels_last
        )
    assert images.equal(before)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_soft_targets(labels, smoothing):
    logits_BK = torch.randn(40, NUM_CLASSES, generator=torch.Generator().manual_seed(3))
    mix = plan(Mixing(0.5, 0.5), draws(20), HEIGHT, WIDTH)
    targets_BK = soft_targets(labels, mix)
    mixed = (of_neighbours(labels), torch.from_numpy(np.repeat(mix.shares_P, 2)))

    def loss(name):
        made = objective.Loss(name, label_smoothing=smoothing, balance="none", class_counts=[1] * NUM_CLASSES)
        return made(logits_BK, labels, *mixed)

    wanted = F.cross_entropy(logits_BK, targets_BK, label_smoothing=smoothing)
    torch.testing.assert_close(loss("cross_entropy"), wanted)
    smoothed_BK = targets_BK * (1 - smoothing) + smoothing / NUM_CLASSES
    torch.testing.assert_close(loss("bce"), F.binary_cross_entropy_with_logits(logits_BK, smoothed_BK))


def test_weights_of_rare_classes_are_shared_like_the_labels():
    made = objective.Loss("cross_entropy", label_smoothing=0.0, balance="class_weights", class_counts=[1, 3])
    logits_BK, labels_B = torch.tensor([[0.3, -1.0]]), torch.tensor([0])
    own, other = float(made(logits_BK, labels_B)), float(made(logits_BK, 1 - labels_B))
    mixed = float(made(logits_BK, labels_B, 1 - labels_B, torch.tensor([0.25])))
    assert mixed == pytest.approx(0.25 * own + 0.75 * other)

"""Frozen features judged as scikit-learn judges them."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from pipeline.evaluation import scouting


@pytest.fixture(params=[0.5, 2.0, 8.0])
def halves(request):
    """Three clouds of six features, more or less mixed."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    features = random.normal(0, request.param, (400, 6)) + random.normal(0, 2, (3, 6))[labels]
    features_NF, labels_N = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    return features_NF[:280], labels_N[:280], features_NF[280:], labels_N[280:]


def test_the_neighbours_are_scikit_learns(halves):
    fit, labels, judged, wanted = (each.numpy() for each in halves)
    theirs = KNeighborsClassifier(scouting.NUM_NEIGHBOURS, metric="cosine").fit(fit, labels).score(judged, wanted)
    assert scouting.knn_right(*halves, 3) == round(theirs * len(judged))


def test_the_probe_is_scikit_learns(halves):
    fit, labels, judged, wanted = (each.numpy().astype(np.float64) for each in halves)
    mean, std = fit.mean(0), fit.std(0, ddof=1)
    theirs = LogisticRegression(C=1.0, max_iter=2000).fit((fit - mean) / std, labels)
    num_right = (theirs.predict((judged - mean) / std) == wanted).sum()
    assert scouting.probe_right(*halves, 3) == pytest.approx(num_right, abs=1)


def test_fewer_samples_than_neighbours_all_vote():
    features_NF = torch.eye(3)
    assert scouting.knn_right(features_NF, torch.tensor([1, 1, 0]), features_NF, torch.tensor([1, 1, 1]), 2) == 3


def test_a_feature_that_never_changes_is_no_trouble():
    features_NF = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    labels_N = torch.tensor([0, 1, 0, 1])
    assert scouting.probe_right(features_NF, labels_N, features_NF, labels_N, 2) == 4


@pytest.mark.parametrize("num_samples", [2, 4, 5, 23])
def test_every_sample_is_judged_once_by_what_was_fitted_on_others(num_samples):
    judged = []

    def judge(fit_NF, labels_N, judged_MF, labels_M, num_classes):
        assert fit_NF[:, 0].long().tolist() == labels_N.tolist()
        assert judged_MF[:, 0].long().tolist() == labels_M.tolist()
        assert set(labels_N.tolist()) | set(labels_M.tolist()) == set(range(num_samples))
        assert num_classes == 99
        judged.append(labels_M.tolist())
        return sum(label % 2 for label in labels_M.tolist())

    numbers_N = torch.arange(num_samples)
    assert scouting.top1(judge, numbers_N[:, None].float(), numbers_N, 99) == num_samples // 2 / num_samples
    assert len(judged) == min(5, num_samples)
    assert sorted(itertools.chain(*judged)) == numbers_N.tolist()
    assert max(map(len, judged)) - min(map(len, judged)) <= 1

"""How well frozen features tell classes apart: by their nearest neighbours, and by a linear classifier on them.

N samples to fit, M to judge, F features, K classes; features are float32 [N, F] and [M, F], labels int64.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

NUM_NEIGHBOURS = 10
NUM_FOLDS = 5


def top1(judge: Callable[..., int], features_NF: torch.Tensor, labels_N: torch.Tensor, num_classes: int) -> float:
    """Cross-validated: each fold is judged by what was fitted on the others, so that of few samples all are judged.

    `judge` is one of the functions below. The samples, two at least, are in no order.
    """
    fold_N = torch.arange(len(labels_N)) % min(NUM_FOLDS, len(labels_N))
    num_right = 0
    for fold in fold_N.unique():
        is_fit = fold_N != fold
        num_right += judge(features_NF[is_fit], labels_N[is_fit], features_NF[~is_fit], labels_N[~is_fit], num_classes)
    return num_right / len(labels_N)


def knn_right(
    fit_NF: torch.Tensor, labels_N: torch.Tensor, judged_MF: torch.Tensor, labels_M: torch.Tensor, num_classes: int
) -> int:
    """How many of the judged have nearest neighbours, by the angle between features, that vote for their class.

    A tie goes to the smaller label.
    """
    likeness_MN = F.normalize(judged_MF) @ F.normalize(fit_NF).T
    nearest_ML = labels_N[likeness_MN.topk(min(NUM_NEIGHBOURS, len(fit_NF))).indices]
    votes_MK = F.one_hot(nearest_ML, num_classes).sum(1)
    return int((votes_MK.argmax(1) == labels_M).sum())


def probe_right(
    fit_NF: torch.Tensor, labels_N: torch.Tensor, judged_MF: torch.Tensor, labels_M: torch.Tensor, num_classes: int
) -> int:
    """How many of the judged logistic regression names right, on features of mean 0 and deviation 1.

    Its weights have a penalty: half their squares, over the number of samples (scikit-learn's C = 1).
    """
    mean_F, std_F = fit_NF.mean(0), fit_NF.std(0).clamp_min(1e-6)
    inputs_NF = (fit_NF - mean_F) / std_F
    weight_KF = torch.zeros(num_classes, fit_NF.shape[1], requires_grad=True)
    bias_K = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight_KF, bias_K], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits_NK = F.linear(inputs_NF, weight_KF, bias_K)
        value = F.cross_entropy(logits_NK, labels_N) + 0.5 * weight_KF.square().sum() / len(labels_N)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        logits_MK = F.linear((judged_MF - mean_F) / std_F, weight_KF, bias_K)
    return int((logits_MK.argmax(1) == labels_M).sum())

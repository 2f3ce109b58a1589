"""How well frozen features tell classes apart: by their nearest neighbours, and by a linear classifier on them.

N samples to fit, M to judge, F features, K classes; features are float32 [N, F] and [M, F], labels int64.
"""

import torch
import torch.nn.functional as F

NUM_NEIGHBOURS = 10


def knn_top1(
    fit_NF: torch.Tensor, labels_N: torch.Tensor, judged_MF: torch.Tensor, labels_M: torch.Tensor, num_classes: int
) -> float:
    """Part of the judged whose nearest neighbours, by the angle between features, vote for their class.

    A tie goes to the smaller label.
    """
    likeness_MN = F.normalize(judged_MF) @ F.normalize(fit_NF).T
    nearest_ML = labels_N[likeness_MN.topk(min(NUM_NEIGHBOURS, len(fit_NF))).indices]
    votes_MK = F.one_hot(nearest_ML, num_classes).sum(1)
    return float((votes_MK.argmax(1) == labels_M).float().mean())


def probe_top1(
    fit_NF: torch.Tensor, labels_N: torch.Tensor, judged_MF: torch.Tensor, labels_M: torch.Tensor, num_classes: int
) -> float:
    """Part of the judged that logistic regression names, on features of mean 0 and deviation 1, with a weight penalty.

    The penalty is half the squared weights, over the number of samples (scikit-learn's C = 1).
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
    return float((logits_MK.argmax(1) == labels_M).float().mean())

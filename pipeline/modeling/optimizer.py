"""AdamW, SGD, LAMB and Muon with weight decay on matrices and kernels only."""

import timm.optim
import torch

SECOND_BETA = 0.999


def build(
    model: torch.nn.Module, *, name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """An optimizer over two groups; biases and normalisation (tensors of one axis) are not decayed.

    `momentum` is the first beta of AdamW and LAMB, and Muon's own. Muon turns matrices and kernels only; the rest goes
    by AdamW with Nesterov's look-ahead, at the same rate.
    Source: You et al. 2020 (LAMB); Jordan et al. 2024 (Muon), scaled as AdamW's updates are.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas = (momentum, SECOND_BETA)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    if name == "lamb":  # its own clipping is off: training.clip_norm has that
        return timm.optim.Lamb(groups, lr=lr, betas=betas, max_grad_norm=None)
    if name == "muon":
        return timm.optim.Muon(groups, lr=lr, momentum=momentum, nesterov=True, betas=betas)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0.0, fused=True)

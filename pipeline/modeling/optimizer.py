"""AdamW and SGD with weight decay on matrices and kernels only."""

import torch


def build(
    model: torch.nn.Module, *, name: str, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """An optimizer over two groups; biases and normalisation (tensors of one axis) are not decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0.0, fused=True)

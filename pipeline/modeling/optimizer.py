"""AdamW, SGD, LAMB and Muon with weight decay on matrices and kernels only."""

import timm.optim
import torch
from torch.distributed.tensor import DTensor

SECOND_BETA = 0.999


def build(
    model: torch.nn.Module,
    *,
    name: str,
    lr: float,
    weight_decay: float,
    momentum: float,
    lr_scales: dict[str, float] | None = None,
    is_thawing: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer over all parameters; biases and normalisation (tensors of one axis) are not decayed.

    `lr_scales` are factors on the learning rate by parameter, kept as `lr_scale` of a group for whoever sets the rates:
    no scheduler looks at it. What takes no gradient is left as it is; `is_thawing` says that some of it will later.
    `momentum` is the first beta of AdamW and LAMB, and Muon's own. Muon turns matrices and kernels only; the rest goes
    by AdamW with Nesterov's look-ahead, at the same rate.
    Source: You et al. 2020 (LAMB); Jordan et al. 2024 (Muon), scaled as AdamW's updates are.
    """
    groups = _groups(model, weight_decay, lr_scales or {})
    made = _make(groups, name, lr, momentum, is_thawing)
    # Fused ones would undo fp16's scaling in their step, after the clipping; Lightning refuses that.
    made._step_supports_amp_scaling = False
    return made


def _make(groups: list[dict], name: str, lr: float, momentum: float, is_thawing: bool) -> torch.optim.Optimizer:
    betas = (momentum, SECOND_BETA)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
    if name == "lamb":  # its own clipping is off: training.clip_norm has that
        return timm.optim.Lamb(groups, lr=lr, betas=betas, max_grad_norm=None)
    if name == "muon":
        return timm.optim.Muon(groups, lr=lr, momentum=momentum, nesterov=True, betas=betas)
    # Fused, torch 2.13 wants momentum of all parameters or of none, and none of them split over ranks.
    is_split = any(isinstance(parameter, DTensor) for group in groups for parameter in group["params"])
    is_fused = not is_thawing and not is_split
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0.0, fused=is_fused)


def _groups(model: torch.nn.Module, weight_decay: float, lr_scales: dict[str, float]) -> list[dict]:
    """By falling scale, first what is decayed and then what is not."""
    made: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        made.setdefault((lr_scales.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if is_decayed else 0.0, "lr_scale": scale}
        for (scale, is_decayed), parameters in sorted(made.items(), key=lambda item: item[0], reverse=True)
    ]

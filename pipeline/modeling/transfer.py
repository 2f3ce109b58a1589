"""What of a network is trained when: all of it, its head, or from its head down one group of layers more at a time.

Groups are timm's own (`group_matcher`), shallow first; the classifier is the last one.
"""

from collections.abc import Callable

import torch
from timm.models import group_parameters
from torch import nn

from pipeline.errors import ModelError
from pipeline.modeling.weights import head_tensors

NORMALISATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def groups(model: nn.Module) -> list[list[str]]:
    """Names of the parameters of each stage of the network, shallow first; the last are the classifier's.

    Raises ModelError for a network that does not say how it is grouped.
    """
    layer_of = group_parameters(model, _matcher(model, "gradual")(coarse=True), reverse=True)
    head = head_tensors(model)
    made: dict[int, list[str]] = {}
    for name, layer in layer_of.items():
        made.setdefault(len(layer_of) if name in head else layer, []).append(name)
    return [made[layer] for layer in sorted(made)]


def lr_scales(model: nn.Module, lr_decay: float) -> dict[str, float]:
    """By parameter, what its learning rate is multiplied with: 1 for the last layer, `lr_decay` less for each before.

    Raises ModelError for a network that does not say what its layers are. Source: Bao et al. 2021 (BEiT), as in timm.
    """
    if lr_decay == 1.0:
        return dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    layer_of = group_parameters(model, _matcher(model, "lr_decay")(coarse=False), reverse=True)
    last = max(layer_of.values())
    return {name: lr_decay ** (last - layer) for name, layer in layer_of.items()}


def _matcher(model: nn.Module, wanted: str) -> Callable[..., dict]:
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise ModelError(
            f"{type(model).__name__} does not say how its layers are grouped, which transfer.{wanted} needs; use "
            "transfer.mode: full or probe with lr_decay: 1.0, or another model.backbone."
        )
    return matcher


def num_trained(epoch: int, *, mode: str, unfreeze_every_epochs: int, num_groups: int) -> int:
    """How many of the last groups are trained in this epoch, counted from 0."""
    if mode == "full":
        return num_groups
    if mode == "probe":
        return 1
    return min(num_groups, 1 + epoch // unfreeze_every_epochs)


def freeze(model: nn.Module, *, epoch: int, mode: str, unfreeze_every_epochs: int, freeze_normalisation: bool) -> list:
    """The layers to keep in evaluation mode in this epoch; what is not trained in it takes no gradient from now on.

    Those are the normalisation layers of what is frozen, or all of them: their statistics stay, too.
    """
    if mode == "gradual":
        all_groups = groups(model)
        trained = num_trained(epoch, mode=mode, unfreeze_every_epochs=unfreeze_every_epochs, num_groups=len(all_groups))
        taken = {name for group in all_groups[-trained:] for name in group}
    else:
        taken = {name for name, _ in model.named_parameters()} if mode == "full" else head_tensors(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in taken)
    still = []
    for name, module in model.named_modules():
        own = {f"{name}.{each}" for each, _ in module.named_parameters()}
        if isinstance(module, NORMALISATION) and (freeze_normalisation or (own and not own & taken)):
            module.requires_grad_(False)
            still.append(module)
    return still


def num_epochs_alike(
    epoch: int, num_epochs: int, *, mode: str, unfreeze_every_epochs: int, num_groups: Callable[[], int]
) -> int:
    """From this epoch on, how many of the run's epochs train the same layers."""
    left = num_epochs - epoch
    if mode != "gradual" or 1 + epoch // unfreeze_every_epochs >= num_groups():
        return left
    return min(left, unfreeze_every_epochs - epoch % unfreeze_every_epochs)


def clear_gradients(model: torch.nn.Module) -> None:
    """Of layers that are frozen or thawed next: they may lie in another communicator's memory."""
    for parameter in model.parameters():
        parameter.grad = None

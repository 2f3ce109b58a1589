"""FSDP2: every rank holds a part of each weight, of its gradient and of what the optimizer keeps for it.

A unit's weights are whole on a rank only while it computes. Checkpoints and exports hold whole tensors, gathered, and
so are those of any number of ranks. Source: Zhao et al. 2023, by way of torch's `fully_shard`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from pipeline.training.task import Place

SEQUENCES = (nn.Sequential, nn.ModuleList)

MIN_UNIT_FRACTION = 0.01
"""Of a network's weights: a smaller block is gathered with what is left over, at the start, instead of on its own."""


def split(network: nn.Module, place: Place) -> None:
    """Leaves this rank its part of the network, whose weights are alike on all ranks; its process group is up.

    What takes no gradient now never will.
    """
    device = torch.device(place.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    mesh = DeviceMesh.from_group(torch.distributed.group.WORLD, device.type)
    network.to(memory_format=torch.contiguous_format)  # torch 2.13 splits no other layout
    smallest = MIN_UNIT_FRACTION * sum(parameter.numel() for parameter in network.parameters())
    for unit in (*units(network, smallest), network):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def units(network: nn.Module, smallest: float) -> Iterator[nn.Module]:
    """The blocks of the network's sequences and lists that have at least so many weights, the outermost ones: each is
    called as one, and needed after the one before."""
    for module in network.children():
        if not (isinstance(network, SEQUENCES) and not isinstance(module, SEQUENCES)):
            yield from units(module, smallest)
        elif sum(parameter.numel() for parameter in module.parameters()) >= smallest:
            yield module


def gathered(value: Any, is_wanted: bool) -> Any:
    """Nested plain values and tensors with every part made whole, on the CPU, where it is wanted; None elsewhere.

    All ranks call it with the same structure.
    """
    if isinstance(value, DTensor):
        whole = value.detach().full_tensor()
        return whole.cpu() if is_wanted else None
    if isinstance(value, dict):
        return {key: gathered(item, is_wanted) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered(item, is_wanted) for item in value)
    return value


def own_parts(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state with this rank's part of each tensor that belongs to a part of a weight.

    Each lies in memory as its weight does, which `channels_last` and being split change: fused optimizers go by memory.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    places = [place for group in state["param_groups"] for place in group["params"]]
    parameter_at = dict(zip(places, parameters, strict=True))
    return state | {
        "state": {
            place: {key: _own_part(value, parameter_at[place]) for key, value in kept.items()}
            for place, kept in state["state"].items()
        }
    }


def _own_part(value: Any, parameter: nn.Parameter) -> Any:
    is_whole = isinstance(value, torch.Tensor) and not isinstance(value, DTensor)
    if not is_whole or value.shape != parameter.shape:
        return value
    if not isinstance(parameter, DTensor):
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    value = value.to(parameter.device).contiguous()
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def has_parts(network: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in network.parameters())

"""A run ends when its loss or its weights are no longer finite, and says at which step and on which samples.

All ranks ask together and find the same: a loss is the mean over them, weights are alike or each rank's own part.
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from pipeline.errors import TrainingError
from pipeline.modeling.average import local
from pipeline.training.ledger import Unfinite
from pipeline.training.parts import has_parts

MAX_KEYS_TOLD = 64
"""Samples that a message names."""


def check_loss(mean_loss: float, mine: Unfinite | None, lr_at: Callable[[int], float]) -> None:
    """Raises TrainingError for a mean over the ranks that is not finite; `mine` is this rank's first such step."""
    if not math.isfinite(mean_loss):
        raise TrainingError(_explain("The loss is {loss} at step {step}", mine, lr_at))


def check_weights(network: torch.nn.Module, step: int, keys_B: np.ndarray, lr_at: Callable[[int], float]) -> None:
    """Raises TrainingError when `step`, on these samples of this rank, made weights that are not finite."""
    norms = torch._foreach_norm([local(parameter) for parameter in network.parameters()])
    is_finite = torch.stack(norms).isfinite().all()
    if has_parts(network):
        is_finite = is_finite.to(torch.int32)
        torch.distributed.all_reduce(is_finite, op=torch.distributed.ReduceOp.MIN)
    if not is_finite:
        mine = Unfinite(step, math.nan, tuple(keys_B.tolist()))
        raise TrainingError(_explain("The weights are not finite after step {step}", mine, lr_at))


def _explain(what: str, mine: Unfinite | None, lr_at: Callable[[int], float]) -> str:
    """The first step that went wrong, and on which samples."""
    found = [mine]
    if torch.distributed.is_initialized():
        found = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, mine)
    step = min(each.step for each in found if each)
    first = [each for each in found if each and each.step == step]
    keys = [key for each in first for key in each.keys]
    more = f" and {len(keys) - MAX_KEYS_TOLD} more" if len(keys) > MAX_KEYS_TOLD else ""
    return (
        f"{what.format(loss=first[0].loss, step=step)}, with a learning rate of {lr_at(step):.3g}, on the "
        f"samples {', '.join(map(str, keys[:MAX_KEYS_TOLD]))}{more}; the checkpoints before it are kept. Lower "
        "optimizer.lr or set training.clip_norm; if it is always these samples, look at them."
    )

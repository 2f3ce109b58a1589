"""An exponential moving average of a model's weights (EMA): what is evaluated and exported."""

import copy

import torch
from torch.distributed.tensor import DTensor


def local(weight: torch.Tensor) -> torch.Tensor:
    """This rank's part of a weight that is split over ranks; the weight itself where it is whole."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


class Average:
    """Owns a copy of the model. Weights are averaged, buffers (running statistics) are those of the last update."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """One step towards `model`. The decay grows with the updates, so that the start is soon forgotten.

        Source of min(decay, (1 + n) / (10 + n)): Abadi et al., TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        averages, weights = ([local(each) for each in of.parameters()] for of in (self.model, model))
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        for dtype in {buffer.dtype for buffer in model.buffers()}:  # one kernel for all of a type
            copies, buffers = ([each for each in of.buffers() if each.dtype == dtype] for of in (self.model, model))
            torch._foreach_copy_(copies, buffers)

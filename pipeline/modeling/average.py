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
        self._followed: torch.nn.Module | None = None

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """One step towards `model`. The decay grows with the updates, so that the start is soon forgotten.

        Source of min(decay, (1 + n) / (10 + n)): Abadi et al., TensorFlow's ExponentialMovingAverage.
        """
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        if self._followed is not model:
            self._follow(model)
        averages, weights = ([local(each) for each in parameters] for parameters in self._parameters)
        torch._foreach_lerp_(averages, weights, 1.0 - decay)
        for places in self._buffers:
            copies, buffers = ([holder[name] for holder, name in of] for of in zip(*places, strict=True))
            torch._foreach_copy_(copies, buffers)

    def _follow(self, model: torch.nn.Module) -> None:
        """Finds what belongs together: walking through a network takes longer than a GPU's step of a small one.

        Parameters stay the same objects when a network moves to another device; buffers are replaced, so that their
        places are kept.
        """
        self._followed = model
        self._parameters = [list(of.parameters()) for of in (self.model, model)]
        of_dtypes: dict[torch.dtype, list] = {}  # one kernel copies all of a type
        for mine, theirs in zip(_places(self.model), _places(model), strict=True):
            holder, name = theirs
            of_dtypes.setdefault(holder[name].dtype, []).append((mine, theirs))
        self._buffers = list(of_dtypes.values())


def _places(model: torch.nn.Module) -> list[tuple[dict[str, torch.Tensor | None], str]]:
    """Where each buffer is kept: a module's dictionary, and the name in it."""
    holders = [module._buffers for module in model.modules()]
    return [(holder, name) for holder in holders for name, buffer in holder.items() if buffer is not None]

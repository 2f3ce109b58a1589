"""What a rank trains: the network, and its average where there is one; whole, or under FSDP2 its part of them."""

from typing import Any

import torch

from pipeline.modeling.average import Average
from pipeline.modeling.backbone import answering
from pipeline.training import parts
from pipeline.training.task import Place


class Trained:
    """Owns both. Whatever gathers parts is to be called on all ranks; rank 0 alone has what comes of it."""

    def __init__(self, network: torch.nn.Module, *, ema_decay: float, compiled: bool, mirror: bool, rank: int):
        self.network = network
        self._average = Average(network, ema_decay) if ema_decay else None
        self._is_first = rank == 0
        if compiled:
            # After the average was copied, which stays as it is; each size of a batch has code of its own, not all one.
            network.compile(dynamic=False)
        self.answering = answering(self.evaluated, mirror)
        """Normalised images [B, C, H, W] to logits [B, K], as what is evaluated answers."""

    @property
    def evaluated(self) -> torch.nn.Module:
        """What validation measures and what is exported: the average where there is one."""
        return self._average.model if self._average else self.network

    def split(self, place: Place) -> None:
        """From now on this rank holds its part."""
        for network in (self.network, *([self._average.model] if self._average else [])):
            parts.split(network, place)

    def to(self, device: torch.device) -> None:
        """The average: it is no child of the module that is trained, so that neither DDP nor the optimizer sees it."""
        if self._average:
            self._average.model.to(device)

    def update(self) -> None:
        if self._average:
            self._average.update(self.network)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, gathered."""
        return {
            "network": parts.gathered(self.network.state_dict(), self._is_first),
            "average": parts.gathered(self._average.model.state_dict(), self._is_first) if self._average else None,
            "num_average_updates": self._average.num_updates if self._average else 0,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave; before anything is split."""
        self.network.load_state_dict(state["network"])
        if self._average:
            self._average.model.load_state_dict(state["average"])
            self._average.num_updates = state["num_average_updates"]

    def take(self) -> dict[str, torch.Tensor] | None:
        """A copy on the CPU of what is evaluated; None but on rank 0."""
        tensors = parts.gathered(self.evaluated.state_dict(), self._is_first)
        if not self._is_first:
            return None
        return {
            name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
            for name, value in tensors.items()
        }

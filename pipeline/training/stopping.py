"""A wish to stop, told by a file and heard by all ranks after the same step, so that they can commit a checkpoint."""

from pathlib import Path

import torch


class StopRequestedError(Exception):
    """Training ended early because it was asked to; its newest checkpoint holds the last step."""


class StopSign:
    """Whether the file was there, as rank 0 saw it. Every rank asks equally often, once a step.

    With several ranks the answer is a step old: it travels beside the step's arithmetic instead of holding it up.
    """

    def __init__(self, path: Path, rank: int, world_size: int):
        self._path, self._rank = path, rank
        # A group of its own: CPU tensors whatever the gradients travel by, and no order to keep with their reductions.
        self._group = torch.distributed.new_group(backend="gloo") if world_size > 1 else None
        self._travelling: tuple[torch.Tensor, torch.distributed.Work] | None = None

    def is_up(self) -> bool:
        seen = self._rank == 0 and self._path.exists()
        if self._group is None:
            return seen
        heard = self._arrived()
        flag = torch.tensor([int(seen)])
        self._travelling = flag, torch.distributed.broadcast(flag, src=0, group=self._group, async_op=True)
        return heard

    def close(self) -> None:
        self._arrived()

    def _arrived(self) -> bool:
        if self._travelling is None:
            return False
        flag, work = self._travelling
        work.wait()
        self._travelling = None
        return bool(flag)

"""Ranks that somebody else has started, in Lightning's words: each is a node of one device."""

import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from pipeline.training.task import Place


def strategy(place: Place, is_split: bool) -> Strategy:
    """DDP where there is more than one rank, or none of Lightning's where the network is split; their process group is
    up."""
    device = torch.device(place.device)
    if place.world_size == 1:
        return SingleDeviceStrategy(device=device)
    return (_Split if is_split else _Joined)(
        parallel_devices=[device],
        cluster_environment=_World(place),
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # running statistics play no part in a training step; validation takes rank 0's
    )


class _Joined(DDPStrategy):
    """DDP in a process that runs already: Lightning's launcher would only give it a thread for every core of the
    machine, and two such ranks hold each other up three times longer than they compute."""

    def _configure_launcher(self) -> None:
        self._launcher = None


class _Split(_Joined):
    """Ranks whose network exchanges weights and gradients by itself. Lightning's ModelParallelStrategy wants a mesh of
    two axes and a hook to split in; all that is needed of it is that nothing is wrapped, and nothing moved away."""

    def configure_ddp(self) -> None:
        pass

    def teardown(self) -> None:
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


class _World(ClusterEnvironment):
    def __init__(self, place: Place):
        super().__init__()
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise AssertionError("the process group is up before Lightning starts")

    main_port = main_address

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world_size

    def set_world_size(self, size: int) -> None:
        assert size == self._place.world_size

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._place.rank

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self._place.rank

"""A few real batches of a run, taken apart: how long loading takes, how long computing, and how much is held."""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from pipeline.loading.batches import BATCHES_AHEAD, Batch
from pipeline.training.forecast import Rates
from pipeline.training.trial import Trial

NUM_BATCHES = 12
"""Of each kind, unless SECONDS are over before."""

SECONDS = 8.0


def rehearse(trial: Trial, world_size: int) -> tuple[Rates, int]:
    """What one rank's part of a step takes on this machine, and the bytes that its forward pass keeps.

    Steps are of rate 0: weights stay as they are.
    """
    with contextlib.closing(trial.batches(world_size)) as batches:
        batch = next(batches)
        kept_bytes = saved_bytes(trial.network, lambda: trial.step(batch, lr=0.0))
        _use_up(batches)
        loading = _mean_seconds(lambda: next(batches))
        computing = _mean_seconds(lambda: trial.step(batch, lr=0.0))
        _use_up(batches)
        together = _mean_seconds(lambda: trial.step(next(batches), lr=0.0))
    return Rates(loading, computing, together), kept_bytes


def _use_up(batches: Iterator[Batch]) -> None:
    """What was made ahead during the steps before says nothing of the loader."""
    for _ in range(BATCHES_AHEAD + 1):
        next(batches)


def saved_bytes(network: torch.nn.Module, work: Callable[[], object]) -> int:
    """Bytes of what autograd keeps while `work` runs, weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        work()
    return sum(sizes.values())


def _mean_seconds(work: Callable[[], object]) -> float:
    started, num_done = time.monotonic(), 0
    while num_done < NUM_BATCHES and (num_done == 0 or time.monotonic() - started < SECONDS):
        work()
        num_done += 1
    return (time.monotonic() - started) / num_done

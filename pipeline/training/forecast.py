"""What a run will take, from what is known before it starts: arithmetic on plain numbers, measured rates among them."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.loading.batches import BATCHES_AHEAD
from pipeline.loading.order import Order

FLOAT_BYTES = 4
"""Weights, gradients and what optimizers keep are float32 under every precision."""

VALIDATION_SHARE = 1 / 3
"""Of a training step's time, for an image that goes forward only. Source: a backward pass costs two forward ones
(Kaplan et al. 2020, section 2.1)."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the height of a step, without Python, torch and the allocator's own."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    """Kept from the forward pass for the backward one."""
    batches: int
    """Pixels that are being made, waiting and in use."""

    @property
    def total(self) -> int:
        return sum(vars(self).values())


@dataclass(frozen=True)
class Rates:
    """Seconds that one rank takes for its part of a step, each measured on a few real batches."""

    loader_seconds: float
    """Nothing but loading."""
    step_seconds: float
    """Nothing but computing."""
    together_seconds: float


def memory(
    network: torch.nn.Module,
    *,
    optimizer: str,
    momentum: float,
    with_average: bool,
    activations_bytes: int,
    batch_bytes: int,
    num_parts: int = 1,
) -> Memory:
    """Of a rank that trains what takes a gradient in `network`, or one of `num_parts` of it; the blocks that are whole
    while they compute come on top of those."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    stored = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    return Memory(
        weights=stored // num_parts,
        gradients=FLOAT_BYTES * sum(parameter.numel() for parameter in trained) // num_parts,
        optimizer=FLOAT_BYTES * optimizer_floats(trained, optimizer, momentum) // num_parts,
        average=stored // num_parts if with_average else 0,
        activations=activations_bytes,
        batches=(BATCHES_AHEAD + 2) * batch_bytes,
    )


def optimizer_floats(parameters: Iterable[torch.nn.Parameter], optimizer: str, momentum: float) -> int:
    """Numbers that an optimizer keeps from step to step: one or two for each parameter."""
    if optimizer == "sgd":
        return sum(each.numel() for each in parameters) if momentum else 0
    if optimizer == "muon":
        return sum(each.numel() * (1 if each.ndim > 1 else 2) for each in parameters)
    return 2 * sum(each.numel() for each in parameters)


def checkpoints_bytes(rank: Memory, keep: int, *, num_parts: int = 1, with_best: bool = False) -> int:
    """Disk that a run's folder takes at most: checkpoints, one more in the making, and the weights it leaves.

    `num_parts` is what `memory` was told; `with_best` says that checkpoints hold the best weights so far, too.
    """
    best = rank.weights if with_best else 0
    return num_parts * ((keep + 1) * (rank.weights + rank.average + rank.optimizer + best) + rank.weights)


def shards_per_lane(order: Order) -> np.ndarray:
    """[lanes] shards that each lane reads in an epoch."""
    first, last = _slots(order)
    return last - first + 1


def shards_per_rank(order: Order, world_size: int) -> np.ndarray:
    """[world_size] shards that each rank reads in an epoch; a shard may be several ranks'."""
    first, last = _slots(order)
    places = order.global_batch_size // world_size * np.arange(world_size + 1)
    draw = order.global_batch_size // order.lanes
    return last[(places[1:] - 1) // draw] - first[places[:-1] // draw] + 1


def run_seconds(
    rates: Rates,
    *,
    steps: int,
    batch_size_per_rank: int,
    validations: int,
    validation_images: int,
    areas: Sequence[float] = (1.0,),
    validation_area: float = 1.0,
) -> float:
    """From the first step to the last; `validation_images` are those of one rank in one validation.

    Each of `areas` is that of the images of an equal part of the steps, as a part of those that were measured: a step
    takes as long in proportion, and no less than its loading. `validation_area` is the same of a validation image, and
    of its mirror image where both are looked at.
    """
    step_seconds = statistics.fmean(max(area * rates.together_seconds, rates.loader_seconds) for area in areas)
    compute_seconds = rates.step_seconds * VALIDATION_SHARE * validation_area
    image_seconds = max(compute_seconds, rates.loader_seconds) / batch_size_per_rank
    return steps * step_seconds + validations * validation_images * image_seconds


def cost(seconds: float, num_ranks: int, price_per_hour: float) -> float:
    """Of so many ranks, each on a GPU of this price."""
    return seconds / 3600 * num_ranks * price_per_hour


def _slots(order: Order) -> tuple[np.ndarray, np.ndarray]:
    """[lanes] first and last of the epoch's permuted shards that each lane reads."""
    samples_per_lane = order.num_samples // order.lanes
    starts = samples_per_lane * np.arange(order.lanes)
    first, last = (
        np.searchsorted(order.permuted_starts, places, side="right") - 1
        for places in (starts, starts + samples_per_lane - 1)
    )
    return first, last

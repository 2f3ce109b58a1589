"""How fast and how large a training step is at each batch size, up to what the memory holds."""

import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from pipeline.errors import OutOfMemoryError
from pipeline.loading.batches import Batch
from pipeline.training.trial import Trial

NUM_STEPS = 4
"""Of each size; the first, which is slower, does not count."""

MEMORY_FRACTION = 0.8
"""Of what is free at the start; what a step twice as large would exceed is not tried."""

NEARLY = 0.95
"""A batch is large enough when it is this near to the fastest."""


@dataclass(frozen=True)
class Measured:
    """Steps of one size on one rank."""

    batch_size_per_rank: int
    images_per_second: float
    peak_bytes: int
    """Of the process, or of the GPU's memory where there is one."""


def measure(trial: Trial, batches: Sequence[int], free_bytes: int) -> Iterator[Measured]:
    """Sizes in rising order, until one does not fit or the next would not. Raises OutOfMemoryError when none does."""
    before = peak_bytes(trial.device)
    last = before
    for size in batches:
        try:
            seconds = [_step_seconds(trial, size) for _ in range(NUM_STEPS)]
        except torch.OutOfMemoryError as exc:
            if size > batches[0]:
                return
            raise OutOfMemoryError(
                f"A step of {size} images does not fit into the {free_bytes / 1e9:.1f} GB of memory that were free; "
                "lower model.input_px, take a smaller model.backbone, or free some memory, and run this again."
            ) from exc
        peak = peak_bytes(trial.device)
        yield Measured(size, size / statistics.median(seconds[1:]), peak)
        if (peak - before) + 2 * (peak - last) > MEMORY_FRACTION * free_bytes:
            return
        last = peak


def choose(measured: Sequence[Measured]) -> Measured:
    """The smallest size that is NEARLY as fast as the fastest."""
    fastest = max(each.images_per_second for each in measured)
    return next(each for each in measured if each.images_per_second >= NEARLY * fastest)


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def peak_bytes(device: torch.device) -> int:
    """The most memory so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _step_seconds(trial: Trial, size: int) -> float:
    batch = Batch(
        torch.zeros(size, *trial.image_shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last),
        torch.zeros(size, *trial.label_shape, dtype=torch.uint8 if trial.label_shape else torch.int64),
        torch.ones(size, dtype=torch.bool),
        np.arange(size, dtype=np.uint64),
    )
    started = time.perf_counter()
    trial.step(batch, lr=0.0)
    return time.perf_counter() - started

"""Batches of uint8 pixels, made ahead of time by threads, handed out in the order's order.

Decoding and resizing release the GIL, so threads use every core without a second process, a copy between processes
or shared memory. A worker writes its images straight into the batch's array.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.imaging.decode import decode
from pipeline.imaging.resizing import evaluation_view
from pipeline.loading import augment
from pipeline.loading.keyed import key_of, uniforms
from pipeline.loading.order import Order, evaluation_steps
from pipeline.loading.read import SplitReader

BATCHES_AHEAD = 3
"""Batches that are being made while one is used."""


@dataclass
class Batch:
    """B samples; padding has mask False."""

    images_BCHW: torch.Tensor
    """uint8, channels_last."""
    labels_B: torch.Tensor
    """int64."""
    mask_B: torch.Tensor
    """bool."""
    keys_B: np.ndarray
    """uint64 sample keys."""


Render = Callable[[np.ndarray, int, np.ndarray], None]
"""Decoded image [H, W, 3], its place in the batch, and the pixels to write [side_px, side_px, 3]."""


def training_batches(
    reader: SplitReader,
    order: Order,
    augmentation: augment.Augmentation,
    *,
    input_px: int,
    rank: int,
    world_size: int,
    first_step: int,
    num_workers: int,
) -> Iterator[Batch]:
    """The rank's batches of one epoch from `first_step` on; the same pixels for a sample wherever it is processed."""

    def plans() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step in range(first_step, order.num_steps):
            numbers = order.rank_step(step, rank, world_size)
            yield numbers, np.ones(len(numbers), bool)

    def render(keys_B: np.ndarray) -> Render:
        draws = uniforms(key_of(order.key, "augment"), keys_B, augment.NUM_DRAWS)

        def write(image_HWC: np.ndarray, place: int, out: np.ndarray) -> None:
            view = augment.plan(augmentation, *image_HWC.shape[:2], draws[place])
            augment.apply(image_HWC, view, input_px, out)

        return write

    return _batches(reader, plans(), render, input_px, num_workers)


def evaluation_batches(
    index_path: Path,
    split: str,
    *,
    input_px: int,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """The rank's batches of a whole split, in the index's order: every sample once over all ranks, padding masked."""
    reader = SplitReader(index_path, split)

    def write(image_HWC: np.ndarray, _place: int, out: np.ndarray) -> None:
        evaluation_view(image_HWC, input_px, out=out)

    try:
        plans = evaluation_steps(reader.num_samples, batch_size, rank, world_size)
        yield from _batches(reader, plans, lambda _keys_B: write, input_px, num_workers)
    finally:
        reader.close()


def _batches(
    reader: SplitReader,
    plans: Iterable[tuple[np.ndarray, np.ndarray]],
    render: Callable[[np.ndarray], Render],
    side_px: int,
    num_workers: int,
) -> Iterator[Batch]:
    """Makes up to BATCHES_AHEAD batches ahead, each cut into one piece per worker."""
    if num_workers == 0:
        for numbers, mask in plans:
            yield _Assembly(reader, numbers, mask, render, side_px).fill(0, len(numbers)).batch()
        return
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="convoy-loader")
    pending: deque[tuple[_Assembly, list[Future]]] = deque()
    try:
        for numbers, mask in plans:
            assembly = _Assembly(reader, numbers, mask, render, side_px)
            cuts = np.linspace(0, len(numbers), min(num_workers, len(numbers)) + 1).astype(int)
            pieces = itertools.pairwise(cuts.tolist())
            pending.append((assembly, [executor.submit(assembly.fill, *piece) for piece in pieces]))
            if len(pending) > BATCHES_AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        executor.shutdown(cancel_futures=True)


def _finished(assembly: "_Assembly", futures: list[Future]) -> Batch:
    for future in futures:
        future.result()
    return assembly.batch()


class _Assembly:
    """A batch in the making."""

    def __init__(self, reader: SplitReader, numbers: np.ndarray, mask: np.ndarray, render, side_px: int):
        self._reader = reader
        self._shards, self._rows = reader.locate(numbers)
        self._mask = mask
        self._write = render(self._rows["key"])
        self._images_BHWC = np.empty((len(numbers), side_px, side_px, 3), np.uint8)

    def fill(self, first: int, last: int) -> "_Assembly":
        """Decodes and renders places first..last-1; padding gets zeros and no decoding."""
        for place in range(first, last):
            out = self._images_BHWC[place]
            if self._mask[place]:
                data = self._reader.image_bytes(int(self._shards[place]), self._rows[place])
                self._write(decode(data), place, out)
            else:
                out.fill(0)
        return self

    def batch(self) -> Batch:
        return Batch(
            images_BCHW=torch.from_numpy(self._images_BHWC).permute(0, 3, 1, 2),
            labels_B=torch.from_numpy(self._rows["label"].astype(np.int64)),
            mask_B=torch.from_numpy(self._mask),
            keys_B=self._rows["key"].copy(),
        )

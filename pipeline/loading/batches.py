"""Batches of pixels, made ahead of time by threads, handed out in the order's order.

Decoding and resizing release the GIL, so threads use every core without a second process, a copy between processes
or shared memory. A worker writes its images straight into the batch's array.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pipeline.loading import augment
from pipeline.loading.assembly import Assembly, Batch, Pages
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.keyed import key_of, mix, uniforms
from pipeline.loading.order import Steps, evaluation_steps
from pipeline.loading.read import SplitReader
from pipeline.loading.render import EvaluationRender, Render, TrainingRender

BATCHES_AHEAD = 3
"""Batches that are being made while one is used."""

_Plan = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of one batch: sample numbers, mask (False for padding) and turns (see `Steps.turns`)."""


def training_batches(
    reader: SplitReader,
    order: Steps,
    augmentation: augment.Augmentation,
    *,
    input_px: int,
    rank: int,
    world_size: int,
    first_step: int,
    num_workers: int,
    decoded: DecodedCache | None = None,
    pages: Pages | None = None,
) -> Iterator[Batch]:
    """The rank's batches of one epoch from `first_step` on; the same pixels for a sample wherever it is processed, and
    with a cache of decoded images as without. Images lie in `pages`, where they are given.

    Raises ParamsError for an augmentation that is not for the images' channels.
    """
    augment.check(augmentation, reader.index.num_channels, reader.index.pixel_dtype)

    def plans() -> Iterator[_Plan]:
        for step in range(first_step, order.num_steps):
            numbers = order.rank_step(step, rank, world_size)
            yield numbers, np.ones(len(numbers), bool), order.rank_turns(step, rank, world_size)

    def render(keys_B: np.ndarray, turns_B: np.ndarray) -> Render:
        counters_B = keys_B ^ mix(turns_B.astype(np.uint64))
        draws_BD = uniforms(key_of(order.key, "augment"), counters_B, augment.NUM_DRAWS)
        return TrainingRender(augmentation, input_px, draws_BD)

    return _batches(reader, plans(), render, input_px, num_workers, pages, decoded)


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
    """As `split_batches`, with a reader of its own."""
    with contextlib.closing(SplitReader(index_path, split)) as reader:
        yield from split_batches(
            reader,
            input_px=input_px,
            batch_size=batch_size,
            num_workers=num_workers,
            rank=rank,
            world_size=world_size,
        )


def split_batches(
    reader: SplitReader,
    *,
    input_px: int,
    batch_size: int,
    num_workers: int,
    rank: int = 0,
    world_size: int = 1,
    pages: Pages | None = None,
) -> Iterator[Batch]:
    """The rank's batches of a whole split, in the index's order: every sample once over all ranks, padding masked."""

    def steps() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return evaluation_steps(reader.num_samples, batch_size, rank, world_size)

    plans = ((numbers, mask, np.zeros_like(numbers)) for numbers, mask in steps())
    with contextlib.closing(reader.look_ahead(numbers for numbers, _ in steps())) as lookahead:
        for batch in _batches(
            reader, plans, lambda _keys_B, _turns_B: EvaluationRender(input_px), input_px, num_workers, pages
        ):
            lookahead.advance()
            yield batch


def _batches(
    reader: SplitReader,
    plans: Iterable[_Plan],
    render: Callable[[np.ndarray, np.ndarray], Render],
    side_px: int,
    num_workers: int,
    pages: Pages | None = None,
    decoded: DecodedCache | None = None,
) -> Iterator[Batch]:
    """Makes up to BATCHES_AHEAD batches ahead, each cut into one piece per worker."""
    pages = pages or Pages()
    if num_workers == 0:
        for plan in plans:
            yield Assembly(reader, *plan, render, side_px, pages, decoded).fill(0, len(plan[0])).batch()
        return
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="convoy-loader")
    pending: deque[tuple[Assembly, list[Future]]] = deque()
    try:
        for plan in plans:
            assembly = Assembly(reader, *plan, render, side_px, pages, decoded)
            cuts = np.linspace(0, len(plan[0]), min(num_workers, len(plan[0])) + 1).astype(int)
            pieces = itertools.pairwise(cuts.tolist())
            pending.append((assembly, [executor.submit(assembly.fill, *piece) for piece in pieces]))
            if len(pending) > BATCHES_AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        executor.shutdown(cancel_futures=True)


def _finished(assembly: Assembly, futures: list[Future]) -> Batch:
    for future in futures:
        future.result()
    return assembly.batch()

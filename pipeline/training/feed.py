"""What Lightning iterates over. An iteration begins where training is, so a resume needs nothing from Lightning."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from pipeline.loading import batches
from pipeline.loading.ahead import Lookahead
from pipeline.loading.apart import Apart
from pipeline.loading.assembly import Pages
from pipeline.loading.augment import Augmentation
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.device import Copies
from pipeline.loading.kept import open_decoded
from pipeline.loading.read import SplitReader
from pipeline.training.picture import drawing_first
from pipeline.training.record import Record
from pipeline.training.sides import largest_px, side_px
from pipeline.training.task import Place, Task

Epochs = Callable[[int, int], Iterator[batches.Batch]]
"""The rank's batches of an epoch, counted from 0, from a step on; asked for in the order of training."""


@contextlib.contextmanager
def open_epochs(task: Task, place: Place, reader: SplitReader) -> Iterator[Epochs]:
    """Made by threads of this process, or, where a GPU computes, of another one."""
    if place.device == "cpu":
        with _epochs_here(task, place, reader, Pages()) as epochs:
            yield epochs
        return
    side, index = largest_px(task.model, task.training), reader.index
    image_bytes = side * side * index.num_channels * np.dtype(index.pixel_dtype).itemsize
    batch_bytes = image_bytes * (task.loading.global_batch_size // place.world_size)
    apart = Apart(partial(_epochs_there, task, place), batch_bytes=batch_bytes, device=torch.device(place.device))
    with contextlib.closing(apart):
        yield apart.batches


@contextlib.contextmanager
def _epochs_there(task: Task, place: Place, pages: Pages) -> Iterator[Epochs]:
    loading = task.loading
    with (
        contextlib.closing(
            SplitReader(task.index_path, "train", loading.cache_bytes, loading.subset_fraction)
        ) as reader,
        _epochs_here(task, place, reader, pages) as epochs,
    ):
        yield epochs


@contextlib.contextmanager
def _epochs_here(task: Task, place: Place, reader: SplitReader, pages: Pages) -> Iterator[Epochs]:
    with open_decoded(reader, task.loading.decoded_cache_bytes, task.run.say) as decoded:
        yield _Epochs(task, place, reader, decoded, pages)


class _Epochs:
    def __init__(self, task: Task, place: Place, reader: SplitReader, decoded: DecodedCache | None, pages: Pages):
        self._task, self._place, self._reader = task, place, reader
        self._decoded, self._pages = decoded, pages
        self._lookahead: Lookahead | None = None

    def __call__(self, epoch: int, first_step: int) -> Iterator[batches.Batch]:
        if self._lookahead is None:
            self._lookahead = self._reader.look_ahead(self._coming(epoch, first_step))
        made = batches.training_batches(
            self._reader,
            self._task.plan(self._reader.index.digest).epoch(epoch, self._reader),
            Augmentation(**self._task.augment.of_one_image()),
            input_px=side_px(epoch, self._task.model, self._task.training),
            rank=self._place.rank,
            world_size=self._place.world_size,
            first_step=first_step,
            num_workers=self._task.loading.workers_per_rank,
            decoded=self._decoded,
            pages=self._pages,
        )
        for batch in made:
            self._lookahead.advance()
            yield batch

    def _coming(self, first_epoch: int, first_step: int) -> Iterator[np.ndarray]:
        """Sample numbers of each of the rank's steps to the end of the run."""
        plan = self._task.plan(self._reader.index.digest)
        for epoch in range(first_epoch, self._task.training.epochs):
            order = plan.epoch(epoch, self._reader)
            for step in range(first_step if epoch == first_epoch else 0, order.num_steps):
                yield order.rank_step(step, self._place.rank, self._place.world_size)


class TrainingFeed:
    """The rank's batches from the current position to the end of its epoch. It has no length: an epoch that was
    resumed is shorter than the next."""

    def __init__(
        self,
        task: Task,
        place: Place,
        epochs: Epochs,
        record: Record,
        *,
        classes: list[str],
        steps_per_epoch: int,
        position: Callable[[], int],
        tell: Callable[[str], None],
    ):
        self._task, self._place, self._epochs, self._record = task, place, epochs, record
        self._classes, self._tell = classes, tell
        self._steps_per_epoch, self._position = steps_per_epoch, position
        self._copies = _copies_to(place)

    def __iter__(self) -> Iterator[batches.Batch]:
        epoch, first_step = divmod(self._position(), self._steps_per_epoch)
        side = self._side_px(epoch)
        if first_step == 0 and epoch > 0 and side != self._side_px(epoch - 1):
            self._tell(f"from epoch {epoch + 1} on training images have {side} px")
        made = self._epochs(epoch, first_step)
        if self._place.rank == 0 and self._position() == 0:
            made = drawing_first(made, self._task.run.files / "augmented_batch.png", self._classes)
        return self._timed(made)

    def _side_px(self, epoch: int) -> int:
        return side_px(epoch, self._task.model, self._task.training)

    def _timed(self, made: Iterator[batches.Batch]) -> Iterator[batches.Batch]:
        while True:
            self._record.phases.begin("wait")
            batch = next(made, None)
            self._record.phases.begin("compute")
            if batch is None:
                if self._copies:
                    self._copies.finish()
                return
            self._record.worked(batch.work)
            yield self._copies.start(batch) if self._copies else batch


class ValidationFeed:
    """The rank's batches of the whole validation split, padding masked."""

    def __init__(self, task: Task, place: Place, reader: SplitReader):
        self._task, self._place, self._reader = task, place, reader
        self._copies = _copies_to(place)
        self._pages = Pages(pinned=self._copies is not None)

    def __iter__(self) -> Iterator[batches.Batch]:
        made = batches.split_batches(
            self._reader,
            input_px=self._task.model.input_px,
            batch_size=self._task.loading.global_batch_size // self._place.world_size,
            num_workers=self._task.loading.workers_per_rank,
            rank=self._place.rank,
            world_size=self._place.world_size,
            pages=self._pages,
        )
        return self._copied(made) if self._copies else made

    def _copied(self, made: Iterator[batches.Batch]) -> Iterator[batches.Batch]:
        yield from map(self._copies.start, made)
        self._copies.finish()


def _copies_to(place: Place) -> Copies | None:
    """None where the batches are made in the memory that they are used in."""
    device = torch.device(place.device)
    return Copies(device) if device.type == "cuda" else None

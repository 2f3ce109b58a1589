"""What Lightning iterates over. An iteration begins where training is, so a resume needs nothing from Lightning."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from pipeline.loading import batches
from pipeline.loading.ahead import Lookahead
from pipeline.loading.augment import Augmentation
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.device import Copies
from pipeline.loading.read import SplitReader
from pipeline.training.picture import drawing_first
from pipeline.training.record import Record
from pipeline.training.sides import side_px
from pipeline.training.task import Place, Task


class TrainingFeed:
    """The rank's batches from the current position to the end of its epoch. It has no length: an epoch that was
    resumed is shorter than the next."""

    def __init__(
        self,
        task: Task,
        place: Place,
        reader: SplitReader,
        decoded: DecodedCache | None,
        record: Record,
        *,
        steps_per_epoch: int,
        position: Callable[[], int],
        tell: Callable[[str], None],
    ):
        self._tell = tell
        self._task, self._place, self._reader, self._record = task, place, reader, record
        self._decoded = decoded
        self._steps_per_epoch, self._position = steps_per_epoch, position
        self._lookahead: Lookahead | None = None
        self._copies = _copies_to(place)

    def __iter__(self) -> Iterator[batches.Batch]:
        epoch, first_step = divmod(self._position(), self._steps_per_epoch)
        plan = self._task.plan(self._reader.index.digest)
        side = self._side_px(epoch)
        if first_step == 0 and epoch > 0 and side != self._side_px(epoch - 1):
            self._tell(f"from epoch {epoch + 1} on training images have {side} px")
        if self._lookahead is None:
            self._lookahead = self._reader.look_ahead(self._coming(self._position()))
        made = batches.training_batches(
            self._reader,
            plan.epoch(epoch, self._reader),
            Augmentation(**self._task.augment.of_one_image()),
            input_px=side,
            rank=self._place.rank,
            world_size=self._place.world_size,
            first_step=first_step,
            num_workers=self._task.loading.workers_per_rank,
            decoded=self._decoded,
            pinned=self._copies is not None,
        )
        if self._place.rank == 0 and self._position() == 0:
            made = drawing_first(made, self._task.run.files / "augmented_batch.png", self._reader.index.classes)
        return self._timed(made)

    def _side_px(self, epoch: int) -> int:
        return side_px(epoch, self._task.model, self._task.training)

    def _timed(self, made: Iterator[batches.Batch]) -> Iterator[batches.Batch]:
        while True:
            self._record.phases.begin("wait")
            batch = next(made, None)
            self._record.phases.begin("compute")
            if batch is None:
                return
            self._record.worked(batch.work)
            self._lookahead.advance()
            yield self._copies.start(batch) if self._copies else batch

    def _coming(self, position: int) -> Iterator[np.ndarray]:
        """Sample numbers of each of the rank's steps from `position` to the end of the run."""
        plan = self._task.plan(self._reader.index.digest)
        first_epoch, first_step = divmod(position, self._steps_per_epoch)
        for epoch in range(first_epoch, self._task.training.epochs):
            order = plan.epoch(epoch, self._reader)
            for step in range(first_step if epoch == first_epoch else 0, self._steps_per_epoch):
                yield order.rank_step(step, self._place.rank, self._place.world_size)


class ValidationFeed:
    """The rank's batches of the whole validation split, padding masked."""

    def __init__(self, task: Task, place: Place, reader: SplitReader):
        self._task, self._place, self._reader = task, place, reader
        self._copies = _copies_to(place)

    def __iter__(self) -> Iterator[batches.Batch]:
        made = batches.split_batches(
            self._reader,
            input_px=self._task.model.input_px,
            batch_size=self._task.loading.global_batch_size // self._place.world_size,
            num_workers=self._task.loading.workers_per_rank,
            rank=self._place.rank,
            world_size=self._place.world_size,
            pinned=self._copies is not None,
        )
        return map(self._copies.start, made) if self._copies else made


def _copies_to(place: Place) -> Copies | None:
    """None where the batches are made in the memory that they are used in."""
    device = torch.device(place.device)
    return Copies(device) if device.type == "cuda" else None

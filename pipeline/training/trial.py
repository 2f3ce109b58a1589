"""A few steps of a run without its surroundings: its batches, network, loss and optimizer; no ledger, nothing kept.

A batch goes through the network whole and unmixed; nothing is compiled, averaged or split over ranks.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import Batch, training_batches
from pipeline.loading.read import SplitReader
from pipeline.modeling import objective
from pipeline.training.network import build_loss, build_network, build_optimizer, freeze
from pipeline.training.sides import largest_px
from pipeline.training.task import Task

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Trial:
    """One rank that trains on the whole batch."""

    def __init__(self, task: Task, reader: SplitReader):
        index = reader.index
        self._task, self._reader = task, reader
        self._side_px = largest_px(task.model, task.training)
        self.image_shape = (index.num_channels, self._side_px, self._side_px)
        self.label_shape = (len(index.classes),) if index.multi_label else ()
        """Of one sample; see `Batch`."""
        self.image_bytes = math.prod(self.image_shape) * np.dtype(index.pixel_dtype).itemsize
        self.num_validation_samples = index.num_samples("validation")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build_network(task, index, is_fresh=True)
        self.network = network.to(self.device).train()
        for layer in freeze(task, self.network, epoch=0):
            layer.eval()
        self._optimizer = build_optimizer(task, self.network)
        self._mean_C, self._std_C = (torch.tensor(values, device=self.device) for values in (index.mean, index.std))
        self._loss = build_loss(task, reader)

    def batches(self, world_size: int = 1) -> Iterator[Batch]:
        """Rank 0's own batches from the run's first step on, epoch after epoch, without end."""
        plan = self._task.plan(self._reader.index.digest)
        epoch = 0
        while True:
            with contextlib.closing(
                training_batches(
                    self._reader,
                    plan.epoch(epoch, self._reader),
                    Augmentation(**self._task.augment.of_one_image()),
                    input_px=self._side_px,
                    rank=0,
                    world_size=world_size,
                    first_step=0,
                    num_workers=self._task.loading.workers_per_rank,
                )
            ) as made:
                yield from made
            epoch += 1

    def step(self, batch: Batch, lr: float) -> float:
        """The loss before an optimizer step of this rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        images_BCHW = objective.normalize(batch.images_BCHW.to(self.device), self._mean_C, self._std_C)
        precision = AUTOCAST.get(self._task.training.precision)
        if precision and self.device.type == "cpu":  # as in a run
            precision = torch.bfloat16
        with torch.autocast(self.device.type, precision) if precision else contextlib.nullcontext():
            logits_BK = self.network(images_BCHW)
        loss = self._loss(logits_BK, batch.labels_B.to(self.device))
        self._optimizer.zero_grad()
        loss.backward()
        if self._task.training.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._task.training.clip_norm)
        self._optimizer.step()
        return float(loss.detach())

"""Batches on a GPU, copied in a stream of their own: the copy of one runs beside the step of the one before."""

from collections import deque
from dataclasses import dataclass, field

import torch

from pipeline.loading.assembly import Batch

MAX_UNDER_WAY = 3
"""Batches that are being copied; the next waits for the first of them."""


@dataclass
class Copy(Batch):
    """A batch that is on its way to the GPU, or there."""

    ready: torch.cuda.Event = field(kw_only=True)

    def arrive(self) -> None:
        stream = torch.cuda.current_stream(self.images_BCHW.device)
        stream.wait_event(self.ready)
        for tensor in (self.images_BCHW, self.labels_B, self.mask_B):
            tensor.record_stream(stream)  # its memory is not given away while that stream still reads it


class Copies:
    """Makes copies on one GPU; one thread's."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._under_way: deque[tuple[torch.cuda.Event, Batch]] = deque()
        """Batches that the GPU may still read: their pages must not be written again."""

    def start(self, batch: Batch) -> Copy:
        """The batch on the GPU, to be used once it has arrived. Its images are pinned, or this waits for the copy."""
        while self._under_way and (len(self._under_way) == MAX_UNDER_WAY or self._under_way[0][0].query()):
            self._let_go()
        with torch.cuda.stream(self._stream):
            labels_B, mask_B, images_BCHW = (
                tensor.to(self._device, non_blocking=True)
                for tensor in (batch.labels_B.pin_memory(), batch.mask_B.pin_memory(), batch.images_BCHW)
            )
            ready = self._stream.record_event()
        self._under_way.append((ready, batch))
        return Copy(images_BCHW, labels_B, mask_B, batch.keys_B, batch.work, ready=ready)

    def finish(self) -> None:
        """Waits for the copies that are under way: no page is held any more."""
        while self._under_way:
            self._let_go()

    def _let_go(self) -> None:
        self._under_way[0][0].synchronize()
        self._under_way.popleft()  # only now: its pages are free with it

"""A batch in the making: encoded images in, one array of pixels out, written by several threads side by side.

Memory is used again: what the system hands out is cleared page by page, which costs a tenth of decoding a small photo.
B samples; images are [H, W, C], uint8 or uint16: RGB, or what the data set has.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.imaging.channels import as_rgb
from pipeline.imaging.decode import decode_region, read_size
from pipeline.imaging.jpeg import read_jpeg_header
from pipeline.imaging.region import MIN_SHRUNK_PX, Region
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.kept import Encoded, kept_images
from pipeline.loading.read import SplitReader

_SCRATCH_BYTES = 8 * 1024**2
"""A thread's memory for one decoded image, such as 1632 x 1632; larger ones get memory of their own."""

_PIECE = 32
"""Images whose encoded bytes a thread holds at once."""

_scratch = threading.local()


class Work(NamedTuple):
    """Seconds that threads spent on a batch, added up; where cores are short, waiting for one counts."""

    read: float = 0.0
    decode: float = 0.0
    augment: float = 0.0
    """Planning crops, cropping, resizing and all that comes after."""


NO_WORK = Work()


@dataclass
class Batch:
    """B samples; padding has mask False."""

    images_BCHW: torch.Tensor
    """uint8 or uint16, channels_last."""
    labels_B: torch.Tensor
    """int64."""
    mask_B: torch.Tensor
    """bool."""
    keys_B: np.ndarray
    """uint64 sample keys."""
    work: Work = NO_WORK

    def pictures(self) -> Iterator[np.ndarray]:
        """Each image for the eye, uint8 [H, W, 3]."""
        return (as_rgb(image_HWC) for image_HWC in self.images_BCHW.permute(0, 2, 3, 1).numpy())


class Pixels:
    """One encoded image; its size is known before it is decoded."""

    def __init__(self, data: bytes):
        self._data = data
        self._header = read_jpeg_header(data)
        self.size = read_size(data) if self._header is None else self._header.upright_size
        """(height, width)."""

    @property
    def can_shrink(self) -> bool:
        """Whether it can be decoded at less than its size."""
        return self._header is not None and min(self.size) >= MIN_SHRUNK_PX

    def decoded(self, region: Region) -> np.ndarray:
        """[region.height, region.width, C], good until this thread decodes another; see `imaging.decode`."""
        if not hasattr(_scratch, "memory"):
            _scratch.memory = np.empty(_SCRATCH_BYTES, np.uint8)
        started = time.perf_counter()
        image_HWC = decode_region(self._data, self._header, region, _scratch.memory)
        _scratch.decode_seconds = getattr(_scratch, "decode_seconds", 0.0) + time.perf_counter() - started
        return image_HWC


Render = Callable[[Sequence[Encoded], slice, np.ndarray], None]
"""Writes images into their places of the batch's array, [B, side_px, side_px, C]."""


class Pages:
    """Arrays that come back when the tensor made of them is gone."""

    def __init__(self):
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
        """Not cleared. Whoever keeps a part of it must keep the array, or a tensor made of it."""
        memory = self._free.pop() if self._free else np.empty(shape, dtype)
        if (memory.shape, memory.dtype) != (shape, dtype):
            memory = np.empty(shape, dtype)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent


class Assembly:
    """A batch in the making."""

    def __init__(
        self,
        reader: SplitReader,
        numbers: np.ndarray,
        mask: np.ndarray,
        turns: np.ndarray,
        render: Callable[[np.ndarray, np.ndarray], Render],
        side_px: int,
        pages: Pages,
        decoded: DecodedCache | None = None,
    ):
        self._reader, self._numbers, self._decoded = reader, numbers, decoded
        self._shards, self._rows = reader.locate(numbers)
        self._mask = mask
        self._write = render(self._rows["key"], turns)
        index = reader.index
        self._work: list[Work] = []
        self._images_BHWC = pages.take((len(numbers), side_px, side_px, index.num_channels), index.pixel_dtype)

    def fill(self, first: int, last: int) -> "Assembly":
        """Decodes and renders places first..last-1; padding, which is last, gets zeros and no decoding."""
        end = first + int(self._mask[first:last].sum())
        for start in range(first, end, _PIECE):
            places = slice(start, min(start + _PIECE, end))
            moments = [time.perf_counter()]
            images = self._open(places)
            moments.append(time.perf_counter())
            _scratch.decode_seconds = 0.0
            self._write(images, places, self._images_BHWC)
            moments.append(time.perf_counter())
            read, write = np.diff(moments).tolist()
            self._work.append(Work(read, _scratch.decode_seconds, write - _scratch.decode_seconds))
        self._images_BHWC[end:last] = 0
        return self

    def _open(self, places: slice) -> Sequence[Encoded]:
        shards, rows = self._shards[places], self._rows[places]

        def encoded(place: int) -> Pixels:
            return Pixels(self._reader.image_bytes(int(shards[place]), rows[place]))

        if self._decoded is None:
            return [encoded(place) for place in range(len(rows))]
        return kept_images(self._decoded, self._numbers[places], encoded)

    def batch(self) -> Batch:
        return Batch(
            images_BCHW=torch.from_numpy(self._images_BHWC).permute(0, 3, 1, 2),
            labels_B=torch.from_numpy(self._rows["label"].astype(np.int64)),
            mask_B=torch.from_numpy(self._mask),
            keys_B=self._rows["key"].copy(),
            work=Work(*map(sum, zip(Work(), *self._work, strict=True))),
        )

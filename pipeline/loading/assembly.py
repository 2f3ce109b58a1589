"""A batch in the making: encoded images in, one array of pixels out, written by several threads side by side.

Memory is used again: what the system hands out is cleared page by page, which costs a tenth of decoding a small photo.
B samples; images are [H, W, C], uint8 or uint16: RGB, or what the data set has.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.imaging.channels import as_rgb
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.encoded import SCRATCH_BYTES, Pixels, take_decode_seconds
from pipeline.loading.kept import Encoded, kept_images
from pipeline.loading.native import Made, NativePieces, is_native_for
from pipeline.loading.read import SplitReader
from pipeline.loading.render import Render
from pipeline.sample_table import is_multi_label, multi_hot

_PIECE_IMAGES = 256
"""That a thread makes at once, at most. What Python does for a piece, with its lock, takes half a millisecond for few
and for many: two microseconds of each image then."""

_PIECE_BYTES = SCRATCH_BYTES
"""Of encoded images that a thread holds at once, at most, but for a single image."""


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
    """int64; of a multi-label set labels_BK instead, uint8 of K classes with a 1 for each that the sample has."""
    mask_B: torch.Tensor
    """bool."""
    keys_B: np.ndarray
    """uint64 sample keys."""
    work: Work = NO_WORK

    def arrive(self) -> None:
        """Makes what is asked of its device from now on wait until the batch is there; see `device.Copies`."""

    def pictures(self) -> Iterator[np.ndarray]:
        """Each image for the eye, uint8 [H, W, 3]."""
        return (as_rgb(image_HWC) for image_HWC in self.images_BCHW.permute(0, 2, 3, 1).numpy())


class Pages:
    """Arrays that come back when the tensor made of them is gone."""

    def __init__(self, pinned: bool = False):
        """`pinned` ones are page-locked, and take long to make: a GPU copies from them by itself."""
        self._pinned = pinned
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
        """Not cleared. Whoever keeps a part of it must keep the array, or a tensor made of it."""
        memory = self._free.pop() if self._free else self._new(shape, dtype)
        if (memory.shape, memory.dtype) != (shape, dtype):
            memory = self._new(shape, dtype)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent

    def _new(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if not self._pinned:
            return np.empty(shape, dtype)
        return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True).numpy()


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
        self._render = render(self._rows["key"], turns)
        index = reader.index
        self._work: list[Work] = []
        self._images_BHWC = pages.take((len(numbers), side_px, side_px, index.num_channels), index.pixel_dtype)
        self._native: NativePieces | None = None
        if is_native_for(index, side_px):
            self._native = NativePieces(
                reader, decoded, numbers, self._shards, self._rows, self._render, self._images_BHWC
            )

    def fill(self, first: int, last: int) -> "Assembly":
        """Decodes and renders places first..last-1; padding, which is last, gets zeros and no decoding."""
        end = first + int(self._mask[first:last].sum())
        for start, stop in _pieces(self._rows["image_bytes"][first:end]):
            self._make(np.arange(first + start, first + stop))
        self._images_BHWC[end:last] = 0
        return self

    def _make(self, places_N: np.ndarray) -> None:
        """By native code where it can, and else by Python."""
        started = time.perf_counter()
        left, read, decode = self._native.make(places_N) if self._native else Made(dict.fromkeys(places_N.tolist()))
        if left:
            opened = time.perf_counter()
            images = self._open(left)
            read += time.perf_counter() - opened
            take_decode_seconds()
            self._render.write(images, np.array(list(left)), self._images_BHWC)
            decode += take_decode_seconds()
        self._work.append(Work(read, decode, time.perf_counter() - started - read - decode))

    def _open(self, data: dict[int, bytes | None]) -> Sequence[Encoded]:
        """Images of these places, from their bytes where they were read already."""

        def encoded(place: int) -> Pixels:
            shard, row = int(self._shards[place]), self._rows[place]
            known = data[place]
            name = f"Sample {row['key']} of {self._reader.shards[shard].name}.tar"
            return Pixels(self._reader.image_bytes(shard, row) if known is None else known, name)

        if self._decoded is None:
            return [encoded(place) for place in data]
        places = np.array(list(data))
        return kept_images(self._decoded, places, self._numbers[places], encoded)

    def _labels(self) -> np.ndarray:
        if is_multi_label(self._rows):
            return multi_hot(self._rows, len(self._reader.index.classes))
        return self._rows["label"].astype(np.int64)

    def batch(self) -> Batch:
        return Batch(
            images_BCHW=torch.from_numpy(self._images_BHWC).permute(0, 3, 1, 2),
            labels_B=torch.from_numpy(self._labels()),
            mask_B=torch.from_numpy(self._mask),
            keys_B=self._rows["key"].copy(),
            work=Work(*map(sum, zip(Work(), *self._work, strict=True))),
        )


def _pieces(sizes_N: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last places, the last exclusive, of images of these many bytes."""
    ends_N = sizes_N.astype(np.int64).cumsum()
    start = done = 0
    while start < len(ends_N):
        stop = int(np.searchsorted(ends_N, done + _PIECE_BYTES, side="right"))
        stop = max(start + 1, min(stop, start + _PIECE_IMAGES))
        yield start, stop
        start, done = stop, int(ends_N[stop - 1])

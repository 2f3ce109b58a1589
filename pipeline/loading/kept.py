"""The images of a reader, from the cache of decoded ones where they lie there and decoded where they do not."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from pipeline.imaging.region import SHRINKS, Region, shrunk_size
from pipeline.loading.cache import default_folder
from pipeline.loading.decoded import DecodedCache
from pipeline.loading.read import SplitReader


class Encoded(Protocol):
    """An image that can be decoded."""

    size: tuple[int, int]
    """(height, width) of the whole image."""
    can_shrink: bool

    def decoded(self, region: Region) -> np.ndarray:
        """[region.height, region.width, C], contiguous where it is the whole image."""


class KeptImage:
    """An image that is served from the cache where it lies there, and else is decoded whole and kept."""

    __slots__ = ("_cache", "_encoded", "_number", "_offsets", "_open_encoded", "_place", "can_shrink", "size")

    def __init__(
        self,
        cache: DecodedCache,
        number: int,
        offsets: list[int],
        size: tuple[int, int],
        can_shrink: bool,
        open_encoded: Callable[[int], Encoded],
        place: int,
    ):
        """The arguments in the middle are what the cache's `look_up` says; `open_encoded` is asked for `place`."""
        self._cache, self._number, self._offsets = cache, number, offsets
        self._open_encoded, self._place = open_encoded, place
        self._encoded: Encoded | None = None
        self.size, self.can_shrink = size, can_shrink
        if max(offsets) < 0:
            self._encoded = open_encoded(place)
            self.size, self.can_shrink = self._encoded.size, self._encoded.can_shrink

    def decoded(self, region: Region) -> np.ndarray:
        """[region.height, region.width, C], to be read only."""
        offset = self._offsets[SHRINKS.index(region.shrink)]
        if offset < 0:
            offset = self._cache.find(self._number, self.size, region.shrink)
        if offset >= 0:
            return self._cache.cut(offset, self.size, region)
        if self._encoded is None:
            self._encoded = self._open_encoded(self._place)
        if not self._cache.grows:
            return self._encoded.decoded(region)
        whole = Region(0, 0, *shrunk_size(*self.size, region.shrink), region.shrink)
        image_HWC = self._encoded.decoded(whole)
        self._cache.keep(self._number, self.size, region.shrink, self.can_shrink, image_HWC)
        return region.of(image_HWC)


@contextlib.contextmanager
def open_decoded(reader: SplitReader, limit_bytes: int, say: Callable[[str], None]) -> Iterator[DecodedCache | None]:
    """The cache for the reader's samples in this machine's cache folder; None where the limit is 0 or the disk refuses.

    `say` hears, once, that the disk has no room.
    """
    index = reader.index
    if limit_bytes == 0:
        yield None
        return
    cache = DecodedCache(
        default_folder(), reader.digest, reader.num_samples, index.num_channels, index.pixel_dtype, limit_bytes, say
    )
    with contextlib.closing(cache):
        yield cache if cache.is_usable else None


def kept_images(
    cache: DecodedCache, places: np.ndarray, numbers: np.ndarray, open_encoded: Callable[[int], Encoded]
) -> list[KeptImage]:
    """The samples of these numbers; `open_encoded` takes the place of one."""
    found = zip(places.tolist(), numbers.tolist(), *(each.tolist() for each in cache.look_up(numbers)), strict=True)
    return [
        KeptImage(cache, number, offsets, tuple(size), can_shrink, open_encoded, place)
        for place, number, offsets, size, can_shrink in found
    ]

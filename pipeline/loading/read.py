"""A split's samples by number: one pread each, from tars that were verified before their first sample.

Safe to use from many threads.
"""

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from pipeline import artifacts
from pipeline.errors import ArtifactError
from pipeline.imaging.crops import read_images
from pipeline.loading.ahead import Lookahead
from pipeline.loading.order import starts_of
from pipeline.loading.shelf import open_shelf, opened
from pipeline.loading.subset import subset_counts, subset_rows
from pipeline.sample_table import count_classes, dtype_of, is_multi_label, without_tombstones

MAX_OPEN_SHARDS = 64
"""File descriptors a reader holds; a common limit for a process is 256."""

MAX_TABLE_BYTES = 256 * 1024**2
"""Sample tables that a reader keeps: those of seven million samples. The least recently used go first."""


class SplitReader:
    """The samples of one split. Numbers are places in the concatenation of its shards, in the index's order.

    Of a `fraction` of the split there are only the samples that `subset` keeps, as if no other had been written.
    """

    def __init__(self, index_path: Path, split: str, cache_bytes: int | None = None, fraction: float = 1.0):
        """`cache_bytes` is what shards that lie at an address may take on this machine's disk; None is no limit."""
        self.index_path = index_path
        self.index = artifacts.Index.read(index_path, made_by="shard")
        self.shards = self.index.splits[split]
        self.shard_class_counts = [shard.class_counts for shard in self.shards]
        """Samples of each label, for each shard; of a part of a multi-label set they are those of the whole."""
        self.shard_sizes = [shard.num_samples for shard in self.shards]
        if fraction < 1.0:
            kept = subset_counts(self.shards, fraction, multi_label=self.index.multi_label)
            self.shard_sizes = [sum(counts) for counts in kept]
            self.shard_class_counts = self.shard_class_counts if self.index.multi_label else kept
        self._split, self._fraction = split, fraction
        self._starts = starts_of(np.asarray(self.shard_sizes, np.int64))
        self._tables: dict[int, np.ndarray] = {}
        self._table_bytes = 0
        self._files: OrderedDict[int, _SharedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in self.shards]
        self.shelf = open_shelf(index_path, self.index, cache_bytes)
        self._lookahead: Lookahead | None = None

    @property
    def digest(self) -> str:
        """Names the samples and their numbers."""
        return f"{self.index.digest} {self._split} {self._fraction}"

    @property
    def num_samples(self) -> int:
        return int(self._starts[-1])

    @property
    def class_counts(self) -> list[int]:
        """Samples of each label. Of a part of a multi-label set only its tables say it."""
        if self.index.multi_label and self._fraction < 1.0:
            of_shards = (self._table(shard) for shard in range(len(self.shards)))
            num_classes = len(self.index.classes)
            return np.sum([count_classes(table, num_classes) for table in of_shards], axis=0, dtype=np.int64).tolist()
        return np.sum(self.shard_class_counts, axis=0, dtype=np.int64).tolist()

    def labels(self, shard: int) -> np.ndarray:
        """Of the shard's samples, int32 [num_samples], in the tar's order."""
        return self._table(shard)["label"]

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row in its sample table for each number; rows come as [len(numbers)] of the tables'."""
        shards = self._shards_of(numbers)
        rows = np.empty(len(numbers), dtype_of(self.index))
        for shard in np.unique(shards):
            here = shards == shard
            rows[here] = self._table(int(shard))[numbers[here] - self._starts[shard]]
        return shards, rows

    def image_bytes(self, shard: int, row: np.void) -> bytes:
        """The sample's encoded image. Raises ArtifactError when the shard is not what the index says."""
        file = self._open(shard)
        try:
            data = os.pread(file.descriptor, int(row["image_bytes"]), int(row["image_offset"]))
        finally:
            file.release()
        if len(data) != row["image_bytes"]:
            raise ArtifactError(f"{self.shards[shard].name}.tar was cut while it was read; run `convoy verify`.")
        return data

    def read_images(self, shards_N: np.ndarray, crops_N: np.ndarray, memory: np.ndarray) -> None:
        """As `imaging.crops.read_images`, for samples of these shards; an image that a tar was cut before stays unread.
        Raises ArtifactError when a shard is not what the index says."""
        by_shard = np.argsort(shards_N, kind="stable")
        sorted_N, shards = crops_N[by_shard], shards_N[by_shard]
        begins = np.flatnonzero(np.diff(shards, prepend=-1)).tolist()
        for first, last in itertools.pairwise([*begins, len(shards)]):
            file = self._open(int(shards[first]))
            try:
                sorted_N["descriptor"][first:last] = file.descriptor
                read_images(sorted_N[first:last], memory)
            finally:
                file.release()
        crops_N[by_shard] = sorted_N

    def opened(self, shard: artifacts.Shard) -> AbstractContextManager[tuple[np.ndarray, Path]]:
        """The table of a shard's samples, and its verified tar, which stays as long."""
        return opened(self.shelf, shard)

    def look_ahead(self, steps: Iterator[np.ndarray]) -> Lookahead:
        """Makes ready, in the background, the shards of steps to come, which are given by their sample numbers.

        One at a time: the next one ends it, and so does the reader.
        """
        if self._lookahead:
            self._lookahead.close()
        needs = (np.unique(self._shards_of(numbers)) for numbers in steps)
        self._lookahead = Lookahead(self.shelf, self.shards, needs, self._close_file)
        return self._lookahead

    def close(self) -> None:
        if self._lookahead:
            self._lookahead.close()
        with self._lock:
            files = [self._files.popitem()[1] for _ in range(len(self._files))]
        for file in files:
            file.release()
        self.shelf.close()

    def _shards_of(self, numbers: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, numbers, side="right") - 1

    def _table(self, shard: int) -> np.ndarray:
        with self._lock:
            table = self._tables.get(shard)
        if table is None:  # without the lock: it may have to be fetched
            entry = self.shards[shard]
            table = without_tombstones(self.shelf.table(entry), entry)
            if self._fraction < 1.0:
                table = table[subset_rows(entry, None if is_multi_label(table) else table["label"], self._fraction)]
        with self._lock:
            self._table_bytes += 0 if self._tables.pop(shard, None) is not None else table.nbytes
            self._tables[shard] = table  # newest last
            while self._table_bytes > MAX_TABLE_BYTES and len(self._tables) > 1:
                self._table_bytes -= self._tables.pop(next(iter(self._tables))).nbytes
            return table

    def _open(self, shard: int) -> "_SharedFile":
        """Verified, and held as long as it is open; the caller releases it."""
        file = self._open_already(shard)
        if file is not None:
            return file
        with self._shard_locks[shard]:  # others that want the same shard wait, others that want another do not
            file = self._open_already(shard)
            if file is not None:
                return file
            entry = self.shards[shard]
            file = _SharedFile(self.shelf.open(entry), lambda: self.shelf.release(entry))
            file.hold()
            surplus = None
            with self._lock:
                self._files[shard] = file
                if len(self._files) > MAX_OPEN_SHARDS:
                    surplus = self._files.popitem(last=False)[1]
            if surplus:
                surplus.release()
            return file

    def _close_file(self, shard: int) -> None:
        """A shard that is open is held, and so in the way of others."""
        with self._lock:
            file = self._files.pop(shard, None)
        if file:
            file.release()

    def _open_already(self, shard: int) -> "_SharedFile | None":
        with self._lock:
            file = self._files.get(shard)
            if file is not None:
                self._files.move_to_end(shard)
                file.hold()
            return file


class _SharedFile:
    """A descriptor that is closed when its last holder lets go; the cache is the first holder."""

    def __init__(self, descriptor: int, closed: Callable[[], None]):
        self.descriptor, self._closed = descriptor, closed
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders > 0:
                return
        os.close(self.descriptor)
        self._closed()

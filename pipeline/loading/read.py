"""A split's samples by number: one pread each, from tars whose bytes were checked at first use.

A tar that was cut or changed reads as a shorter or different one without any error of its own; so size and sha256
are compared with the index before a shard's first sample is handed out. Safe to use from many threads.
"""

import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from pipeline import artifacts
from pipeline.errors import ArtifactError
from pipeline.loading.order import starts_of

MAX_OPEN_SHARDS = 64
"""File descriptors a reader holds; a common limit for a process is 256."""

MAX_TABLE_BYTES = 256 * 1024**2
"""Sample tables that a reader keeps: those of seven million samples. The least recently used go first."""


class SplitReader:
    """The samples of one split. Numbers are places in the concatenation of its shards, in the index's order."""

    def __init__(self, index_path: Path, split: str):
        self.index_path = index_path
        self.index = artifacts.Index.read(index_path, made_by="shard")
        self.shards = self.index.splits[split]
        self.shard_sizes = [shard.num_samples for shard in self.shards]
        self._starts = starts_of(np.asarray(self.shard_sizes, np.int64))
        self._tables: dict[int, np.ndarray] = {}
        self._table_bytes = 0
        self._files: OrderedDict[int, _SharedFile] = OrderedDict()
        self._lock = threading.Lock()
        self._shard_locks = [threading.Lock() for _ in self.shards]
        self._verified: set[int] = set()

    @property
    def num_samples(self) -> int:
        return int(self._starts[-1])

    @property
    def class_counts(self) -> list[list[int]]:
        """Samples per label, for each shard."""
        return [shard.class_counts for shard in self.shards]

    def labels(self, shard: int) -> np.ndarray:
        """Of the shard's samples, int32 [num_samples], in the tar's order."""
        return self._table(shard)["label"]

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shard and row in its sample table for each number; rows come as SAMPLE_DTYPE [len(numbers)]."""
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        rows = np.empty(len(numbers), artifacts.SAMPLE_DTYPE)
        for shard in np.unique(shards):
            here = shards == shard
            rows[here] = self._table(int(shard))[numbers[here] - self._starts[shard]]
        return shards, rows

    def image_bytes(self, shard: int, row: np.void) -> bytes:
        """The sample's encoded image. Raises ArtifactError when the shard is not what the index says."""
        if shard not in self._verified:
            self._verify(shard)
        file = self._open(shard)
        try:
            data = os.pread(file.descriptor, int(row["image_bytes"]), int(row["image_offset"]))
        finally:
            file.release()
        if len(data) != row["image_bytes"]:
            raise ArtifactError(f"{self._tar(shard)} was cut while it was read; run `convoy verify`.")
        return data

    def close(self) -> None:
        with self._lock:
            while self._files:
                self._files.popitem()[1].release()

    def _tar(self, shard: int) -> Path:
        return self.index_path.parent / f"{self.shards[shard].name}.tar"

    def _table(self, shard: int) -> np.ndarray:
        with self._lock:
            table = self._tables.pop(shard, None)
            if table is None:
                table = artifacts.read_sample_table(self.index_path, self.shards[shard])
                self._table_bytes += table.nbytes
            self._tables[shard] = table  # newest last
            while self._table_bytes > MAX_TABLE_BYTES and len(self._tables) > 1:
                self._table_bytes -= self._tables.pop(next(iter(self._tables))).nbytes
            return table

    def _verify(self, shard: int) -> None:
        """Compares the tar with the index, once; other threads that want the same shard wait."""
        with self._shard_locks[shard]:
            if shard in self._verified:
                return
            entry, path = self.shards[shard], self._tar(shard)
            try:
                num_bytes, sha256 = path.stat().st_size, artifacts.file_sha256(path)
            except FileNotFoundError as exc:
                raise ArtifactError(f"{path} is missing; run `convoy shard` (or `dvc checkout`).") from exc
            if num_bytes != entry.num_bytes or sha256 != entry.sha256:
                raise ArtifactError(
                    f"{path} was changed after it was written: {num_bytes} bytes with sha256 {sha256[:12]}, the index "
                    f"says {entry.num_bytes} with {entry.sha256[:12]}; remove data/shards and run `convoy shard` again."
                )
            self._verified.add(shard)

    def _open(self, shard: int) -> "_SharedFile":
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = _SharedFile(os.open(self._tar(shard), os.O_RDONLY))
                if len(self._files) > MAX_OPEN_SHARDS:
                    self._files.popitem(last=False)[1].release()
            self._files.move_to_end(shard)
            file.hold()
            return file


class _SharedFile:
    """A descriptor that is closed when its last holder lets go; the cache is the first holder."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._holders = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                os.close(self.descriptor)

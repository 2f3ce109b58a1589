"""sha256 of every source file, before anything is decided: equal images must go to one split."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.artifacts import Reject
from pipeline.errors import ImageError
from pipeline.sharding.reading import read_image
from pipeline.sharding.workers import Advance, Workers

DIGEST_BYTES = hashlib.sha256().digest_size
RECORDS_PER_TASK = 512


class _Task(NamedTuple):
    root: Path
    paths: list[str]


def hash_records(
    paths: pa.ChunkedArray, root: Path, workers: Workers, advance: Advance
) -> tuple[np.ndarray, dict[int, Reject]]:
    """uint8 [num_records, 32]: the digests, and by row the rejects among files that cannot be read (digest all 0)."""
    digests, rejects, row = np.zeros((len(paths), DIGEST_BYTES), np.uint8), {}, 0
    for digests_of_task, rejects_of_task in workers.map(_hash, _tasks(paths, root), advance):
        count = len(digests_of_task) // DIGEST_BYTES
        digests[row : row + count] = np.frombuffer(digests_of_task, np.uint8).reshape(count, DIGEST_BYTES)
        rejects.update({row + position: reject for position, reject in rejects_of_task})
        row += count
    return digests, rejects


def _tasks(paths: pa.ChunkedArray, root: Path) -> Iterator[_Task]:
    for start in range(0, len(paths), RECORDS_PER_TASK):
        yield _Task(root, paths.slice(start, RECORDS_PER_TASK).to_pylist())


def _hash(task: _Task, advance: Advance) -> tuple[bytes, list[tuple[int, Reject]]]:
    digests, rejects = bytearray(), []
    for position, path in enumerate(task.paths):
        try:
            digests += hashlib.sha256(read_image(task.root, path)).digest()
        except ImageError as exc:
            digests += bytes(DIGEST_BYTES)
            rejects.append((position, Reject(path=path, reason=exc.reason, detail=str(exc))))
    advance(len(task.paths))
    return bytes(digests), rejects

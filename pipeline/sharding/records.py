"""What a shard says of each record, in one file that any process reads rows of: nobody holds it for all records."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # workers read these files, and do without Arrow
    from pipeline.sharding.manifest import Manifest


class Facts(NamedTuple):
    path: str
    group: str | None
    metadata: str
    """A JSON object."""


class FactsFile:
    """One JSON line a record, in the manifest's order, and beside it where each line begins."""

    def __init__(self, spool: Path):
        self._lines, self._starts = spool / "facts", spool / "facts.starts"

    def create(self, manifest: "Manifest") -> None:
        with self._lines.open("wb") as lines, self._starts.open("wb") as starts:
            starts.write(np.zeros(1, "<i8").tobytes())
            for batch in manifest.batches(*Facts._fields):
                columns = (batch[name].to_pylist() for name in Facts._fields)
                of_batch = [json.dumps(facts).encode() + b"\n" for facts in zip(*columns, strict=True)]
                starts.write((lines.tell() + np.cumsum([*map(len, of_batch)])).astype("<i8").tobytes())
                lines.write(b"".join(of_batch))

    def rows(self, rows: np.ndarray) -> Iterator[Facts]:
        with self._lines.open("rb") as lines, self._starts.open("rb") as starts:
            for row in rows.tolist():
                start, end = np.frombuffer(os.pread(starts.fileno(), 16, 8 * row), "<i8").tolist()
                yield Facts(*json.loads(os.pread(lines.fileno(), end - start, start)))

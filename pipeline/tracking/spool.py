"""The metrics of a run as JSON lines, appended by rank 0 and replayed to MLflow by the driver. Imports no mlflow.

The first line names the file's generation: `truncate_after` starts a new one, so that a reader never takes an offset
of the old bytes for one of the new.
"""

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """What was measured at one moment of training."""

    step: int
    time_seconds: float
    """Since 1970."""
    metrics: dict[str, float]
    epoch: int | None = None


@dataclass(frozen=True)
class Position:
    """How far a reader has come; the default is the beginning."""

    generation: str = ""
    offset: int = 0
    """Bytes; always at the start of a line."""


class Spool:
    """Appends lines. One writer a file; a half line that a killed writer left is cut off on opening."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._descriptor, _end_of_last_line(self._descriptor))
        header = os.pread(self._descriptor, len(_header()), 0)
        if _generation(header) is None:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, _header())

    def append(self, step: int, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Adds a line stamped with the time of now, in one write; steps never go down."""
        entry = {"step": step, "time_seconds": time.time(), "metrics": {key: float(v) for key, v in metrics.items()}}
        if epoch is not None:
            entry["epoch"] = epoch
        os.write(self._descriptor, json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


def read(path: Path, position: Position, committed_step: int) -> tuple[list[Line], Position]:
    """The next whole lines from `position` on (about a megabyte at most), and where to go on.

    Stops before the first line of a step that is not committed yet. Nothing new gives no lines. A position of another
    generation starts at the beginning.
    """
    try:
        with path.open("rb") as file:
            header = file.readline()
            generation = _generation(header)
            if generation is None:
                return [], position
            offset = position.offset if position.generation == generation else len(header)
            file.seek(offset)
            chunk = file.read(CHUNK_BYTES)
            if b"\n" not in chunk:
                chunk += file.readline()
    except FileNotFoundError:
        return [], position
    lines = []
    for raw in chunk[: chunk.rfind(b"\n") + 1].splitlines(keepends=True):
        line = _parse(raw)
        if line is not None and line.step > committed_step:
            break
        if line is not None:
            lines.append(line)
        offset += len(raw)
    return lines, Position(generation, offset)


def truncate_after(path: Path, step: int) -> None:
    """Drops the lines of later steps: training resumes from a checkpoint of `step`. Atomic; no writer may be open."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    kept, dropped = [], False
    for raw in content.splitlines(keepends=True)[1:]:
        line = _parse(raw)
        if line is not None and line.step <= step:
            kept.append(raw)
        else:
            dropped = True
    if not dropped:
        return
    private = path.with_name(f".{path.name}.partial")
    with private.open("wb") as file:
        file.write(_header() + b"".join(kept))
        file.flush()
        os.fsync(file.fileno())
    private.replace(path)


def _header() -> bytes:
    return json.dumps({"generation": secrets.token_hex(8)}).encode() + b"\n"


def _generation(header: bytes) -> str | None:
    """None for a file that has no whole header."""
    try:
        return json.loads(header)["generation"] if header.endswith(b"\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def _parse(raw: bytes) -> Line | None:
    """None for a line that a crash of the machine left as rubbish: its metrics are lost, the run is not."""
    try:
        return Line(**json.loads(raw)) if raw.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None


def _end_of_last_line(descriptor: int) -> int:
    """Bytes up to and with the last newline."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0

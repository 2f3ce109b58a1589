"""Proof of what was trained on: each rank writes a line a step; merged, they tell every step's samples and loss.

A file holds one rank's steps of one attempt. Where attempts overlap, because a killed one had gone past the
checkpoint that the next began at, the later attempt holds: its steps are the ones the weights are made of.
"""

import contextlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import ArtifactError, StorageError
from pipeline.loading.keyed import mix


@dataclass(frozen=True)
class Entry:
    """One committed step, over all ranks."""

    step: int
    samples_digest: int
    """Sum over the samples of a hash of their keys, modulo 2**64: equal for equal multisets, however they were
    dealt to ranks."""
    num_samples: int
    loss: float
    keys: tuple[int, ...] | None
    """Sample keys by rank; None unless every rank wrote them."""


@dataclass(frozen=True)
class Unfinite:
    """A step whose loss was NaN or infinite."""

    step: int
    loss: float
    keys: tuple[int, ...]
    """Of this rank's samples."""


class Ledger:
    """One rank's lines of one attempt."""

    def __init__(self, folder: Path, attempt: int, rank: int, with_keys: bool):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = open(folder / f"attempt-{attempt:04d}-rank-{rank:05d}.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._with_keys = with_keys
        self._pending: list[tuple[int, np.ndarray, torch.Tensor]] = []

    def record(self, step: int, keys_B: np.ndarray, loss: torch.Tensor) -> None:
        """Notes a finished step; `loss` is the rank's mean and stays on its device until the next flush, because
        reading it makes the CPU wait."""
        self._pending.append((step, keys_B, loss.detach()))

    def flush(self) -> Unfinite | None:
        """Brings what is pending to the disk, and gives the first of it whose loss is not finite; a checkpoint is
        committed only after every rank did. Raises StorageError for a disk that does not take it."""
        losses = torch.stack([loss for _, _, loss in self._pending]).double().tolist() if self._pending else []
        first = None
        for (step, keys_B, _), loss in zip(self._pending, losses, strict=True):
            line = {"step": step, "digest": samples_digest(keys_B), "samples": len(keys_B), "loss": loss}
            if self._with_keys:
                line["keys"] = keys_B.tolist()
            self._file.write(json.dumps(line) + "\n")
            if first is None and not math.isfinite(loss):
                first = Unfinite(step, loss, tuple(keys_B.tolist()))
        if self._pending:
            self._pending.clear()
            self._sync()
        return first

    def close(self) -> None:
        try:
            self.flush()
        finally:
            with contextlib.suppress(OSError):  # of what the disk did not take, which was said
                self._file.close()

    def _sync(self) -> None:
        """A checkpoint is on the disk, and must not outlive its steps' lines."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise StorageError(
                f"The ledger {self._file.name} cannot be written ({exc.strerror}); what was committed is whole. Free "
                "some space or make it writable, and run the same command to go on."
            ) from exc


def samples_digest(keys_B: np.ndarray) -> int:
    """Order-free digest of sample keys; digests of parts add up to that of the whole, modulo 2**64."""
    return int(mix(mix(np.asarray(keys_B, np.uint64)) + np.uint64(1)).sum(dtype=np.uint64))


def read(folder: Path) -> list[Entry]:
    """The committed history in step order. Raises ArtifactError for a line that is not whole but for a last one."""
    attempts: dict[int, dict[int, list[dict]]] = {}
    for path in sorted(folder.glob("attempt-*-rank-*.jsonl")):
        attempt = int(path.name.split("-")[1])
        for line in _lines(path):
            attempts.setdefault(attempt, {}).setdefault(line["step"], []).append(line)
    committed: dict[int, list[dict]] = {}
    for _, steps in sorted(attempts.items()):
        first = min(steps)
        committed = {step: lines for step, lines in committed.items() if step < first} | steps
    return [_merge(step, lines) for step, lines in sorted(committed.items())]


def next_attempt(folder: Path) -> int:
    """A number above every attempt that left a file."""
    return 1 + max((int(path.name.split("-")[1]) for path in folder.glob("attempt-*-rank-*.jsonl")), default=0)


def _lines(path: Path) -> list[dict]:
    whole = path.read_text(encoding="utf-8").split("\n")[:-1]  # a killed writer may leave half a last line
    try:
        return [json.loads(line) for line in whole]
    except ValueError as exc:
        raise ArtifactError(f"{path} holds a line that is not whole ({exc}); the ledger cannot vouch for it.") from exc


def _merge(step: int, lines: list[dict]) -> Entry:
    keys = [key for line in lines for key in line["keys"]] if all("keys" in line for line in lines) else None
    return Entry(
        step=step,
        samples_digest=sum(line["digest"] for line in lines) % 2**64,
        num_samples=sum(line["samples"] for line in lines),
        loss=sum(line["loss"] for line in lines) / len(lines),
        keys=None if keys is None else tuple(keys),
    )

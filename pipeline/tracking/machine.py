"""How busy the machine that trains is: figures under `system/` beside each step's metrics."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import psutil


class Sink(Protocol):
    """Where metrics go; `spool.Spool` in a run."""

    def append(self, step: int, metrics: Mapping[str, float], epoch: int | None = None) -> None: ...


class WithMachine:
    """A sink that adds the machine's figures to the first metrics of each step."""

    def __init__(self, sink: Sink, folder: Path):
        """`folder` lies on the disk whose free space is told."""
        self._sink, self._folder = sink, folder
        self._process = psutil.Process()
        self._step: int | None = None
        psutil.cpu_percent()  # each call tells of the time since the one before

    def append(self, step: int, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        if step != self._step:
            self._step = step
            metrics = {**metrics, **self._figures()}
        self._sink.append(step, metrics, epoch=epoch)

    def _figures(self) -> dict[str, float]:
        """Of all cores, all memory and the GPU's, if there is one; the rank's own memory is its resident size."""
        import torch

        figures = {
            "system/cpu_fraction": psutil.cpu_percent() / 100.0,
            "system/memory_fraction": psutil.virtual_memory().percent / 100.0,
            "system/rank_memory_bytes": float(self._process.memory_info().rss),
            "system/disk_free_bytes": float(shutil.disk_usage(self._folder).free),
        }
        if torch.cuda.is_initialized():
            free, total = torch.cuda.mem_get_info()
            figures["system/gpu_memory_fraction"] = 1.0 - free / total
        return figures

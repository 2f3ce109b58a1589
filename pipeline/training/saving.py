"""Checkpoints while training goes on: a step waits for a copy of the state, a thread writes and commits it.

At most one is being written. The copy's memory, page-locked beside a GPU, is used again for the next.
"""

import enum
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.training import checkpoint
from pipeline.training.stopping import StopRequestedError
from pipeline.training.task import Place, Task


class Moment(enum.Enum):
    """When a state is offered, and so which of them are taken."""

    STEP = "a step of an epoch"
    """When the last one was taken long enough ago."""
    EPOCH = "the end of an epoch"
    """The same, and whenever none is being written: epochs may be shorter than a disk takes to flush."""
    LAST = "the last of this process"
    """Always."""


Save = Callable[[Callable[[], dict[str, Any]], Moment], None]
"""Is offered a state."""

NOTICEABLE_SECONDS = 10.0
"""How long training stands still for a slow disk before it says so."""


class Saver:
    """Commits what it is offered, as `Moment` says."""

    def __init__(self, folder: Path, *, fingerprint: str, every_seconds: float, keep: int, say: Callable[[str], None]):
        self._folder, self._fingerprint, self._keep, self._say = folder, fingerprint, keep, say
        self._every_seconds = every_seconds
        self._saved = time.monotonic()
        self._staging = _Staging()
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, state: Callable[[], dict[str, Any]], moment: Moment) -> None:
        """Takes the state as it is now, if one is due. Raises as `check` does."""
        if not self.is_due(moment):
            return
        self.finish()
        content = self._staging.copy(state() | {"fingerprint": self._fingerprint})
        self._writing = threading.Thread(target=self._write, args=(content,), name="convoy-checkpoint", daemon=True)
        self._writing.start()
        self._saved = time.monotonic()

    def is_due(self, moment: Moment) -> bool:
        if moment is Moment.EPOCH and not (self._writing and self._writing.is_alive()):
            return True
        return moment is Moment.LAST or time.monotonic() - self._saved >= self._every_seconds

    def check(self) -> None:
        """Raises StorageError when the last one could not be written; asked after every step."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def finish(self) -> None:
        """Waits until the last one is committed. Raises as `check` does."""
        self.wait()
        self.check()

    def wait(self) -> None:
        if self._writing is None:
            return
        started = time.monotonic()
        self._writing.join(NOTICEABLE_SECONDS)
        if self._writing.is_alive():
            self._say(f"training waits for a checkpoint that is still being written to {self._folder}")
            self._writing.join()
            seconds = time.monotonic() - started
            self._say(f"training stood still for {seconds:.0f} s until a checkpoint was written to {self._folder}")
        self._writing = None

    def _write(self, content: dict[str, Any]) -> None:
        try:
            checkpoint.save(self._folder, content["position"], content, keep=self._keep)
        except BaseException as exc:
            self._failure = exc


def save_of(saver: Saver | None, task: Task, place: Place) -> Save:
    """How a rank offers its state; rank 0 alone has a saver. A state in parts is gathered by all ranks or by none, as
    rank 0's saver says."""
    if not task.is_split(place):
        return saver.save if saver else lambda state, moment: None

    def save(state: Callable[[], dict[str, Any]], moment: Moment) -> None:
        wish = torch.tensor([int(saver.is_due(moment)) if saver else 0], device=place.device)
        torch.distributed.broadcast(wish, src=0)
        if wish:
            gathered = state()
            if saver:
                saver.save(lambda: gathered, Moment.LAST)

    return save


@contextmanager
def committing(saver: Saver) -> Iterator[Saver]:
    """Nothing that was taken is left unwritten when the block ends, but for an end at once.

    A checkpoint that cannot be written is raised, unless something else went wrong first.
    """
    try:
        yield saver
    except StopRequestedError:
        saver.finish()
        raise
    except Exception:
        saver.wait()
        raise
    else:
        saver.finish()


class _Staging:
    """Copies of nested plain values and tensors, the tensors on the CPU, each in the memory of the one before."""

    def __init__(self):
        self._tensors: dict[tuple, torch.Tensor] = {}

    def copy(self, value: Any) -> Any:
        copied = self._copy(value, ())
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return copied

    def _copy(self, value: Any, path: tuple) -> Any:
        if isinstance(value, torch.Tensor):
            mine = self._tensors.get(path)
            if mine is None or mine.shape != value.shape or mine.dtype != value.dtype:
                mine = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
                self._tensors[path] = mine
            return mine.copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {key: self._copy(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*path, place)) for place, item in enumerate(value))
        return value

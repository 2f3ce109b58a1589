"""What can end a rank through no fault of its code: a peer that is gone, memory or a compiler that is not there."""

import contextlib
from collections.abc import Iterator

import torch

from pipeline.errors import ModelError, OutOfMemoryError, PeerLostError
from pipeline.training.task import Place

_LOST_PEER_WORDS = (
    "Connection closed by peer", "Connection reset by peer", "Socket closed", "Broken pipe", "NCCL error",
    "Timed out waiting", "Application timeout",
)  # fmt: skip
"""gloo says so in words only."""

_NO_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "could not allocate", "Cannot allocate memory")
"""As torch's allocator for the CPU, its libraries and the system say it."""


@contextlib.contextmanager
def translating(place: Place) -> Iterator[None]:
    """Foreign exceptions come out as PeerLostError and OutOfMemoryError where they are that."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as exc:
        raise ModelError(
            f"training.compile: torch.compile cannot compile this network here ({_first_line(exc)}); set it to false, "
            "or install a C++ compiler if that is what it lacks."
        ) from exc
    except (RuntimeError, MemoryError, OSError) as exc:
        if _is_memory(exc):
            raise OutOfMemoryError(
                f"Rank {place.rank} ran out of memory ({_first_line(exc)}); raise training.accumulate_steps, lower "
                "model.input_px, use more ranks, or free some memory, and run the same command again."
            ) from exc
        if place.world_size > 1 and _is_lost_peer(exc):
            raise PeerLostError(f"Rank {place.rank} lost another rank in the middle of a step: {exc}") from exc
        raise


def _first_line(exc: BaseException) -> str:
    return next(iter(str(exc).strip().splitlines()), type(exc).__name__)[:300]


def _is_memory(exc: BaseException) -> bool:
    return isinstance(exc, MemoryError | torch.OutOfMemoryError) or any(word in str(exc) for word in _NO_MEMORY_WORDS)


def _is_lost_peer(exc: BaseException) -> bool:
    """Whether a collective broke because the other side went away or fell silent."""
    if isinstance(exc, OSError):
        return False
    return isinstance(exc, torch.distributed.DistError) or any(word in str(exc) for word in _LOST_PEER_WORDS)

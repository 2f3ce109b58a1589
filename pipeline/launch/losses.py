"""Why a world of ranks ended before its work: what was lost, when starting it again may help.

When a rank dies or fails, the others lose their peer; so a loss counts before a failure, and a failure before the
PeerLostErrors that came of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import ConvoyError, OutOfMemoryError, PeerLostError, TrainingError


@dataclass(frozen=True)
class Loss:
    """What was lost, in words; the world may be started again."""

    what: str
    is_announced: bool = False
    """A node was taken away, and had said so, or there is room for more ranks: that is no failure."""
    is_of_memory: bool = False
    """Memory ran out: once is bad luck, twice running is a rule."""


def explain(failures: Mapping[int, BaseException], traceback: str, cause: BaseException, hang_seconds: float) -> Loss:
    """The loss behind the failures, by rank. Raises what a restart would meet again."""
    import ray.exceptions
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    failures = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in sorted(failures.items())}
    for rank, failure in failures.items():
        if isinstance(failure, OutOfMemoryError):
            return Loss(str(failure), is_of_memory=True)
        if isinstance(failure, ray.exceptions.OutOfMemoryError):
            return Loss(f"rank {rank} was ended because its node ran out of memory", is_of_memory=True)
    for rank, failure in failures.items():
        if isinstance(failure, WorkerHealthCheckTimeoutError):
            return Loss(f"rank {rank} said nothing for {hang_seconds:.0f} s")
        if isinstance(failure, ray.exceptions.RayError):
            return Loss(f"rank {rank} was lost ({first_lines(failure)})", getattr(failure, "preempted", False))
    if any(not isinstance(failure, PeerLostError) for failure in failures.values()):
        for failure in failures.values():
            if isinstance(failure, ConvoyError) and not isinstance(failure, PeerLostError):
                raise failure
        raise TrainingError(f"The training code failed; a restart would meet the same. {traceback}") from cause
    return Loss(str(failures[min(failures)]))


def first_lines(failure: BaseException) -> str:
    """The first two lines of what Ray says, which goes on for a page."""
    return " ".join(line.strip() for line in str(failure).strip().splitlines()[:2])

"""Where a step's time goes on one rank, without making anybody wait for it: moments are marked as they pass and the
times between them are read at log points, where the host waits for the device anyway.

On a GPU the marks are CUDA events in the stream of the work itself. The host runs ahead of the device, so its own clock
would blame a loader that the device never had to wait for; between two events the device was idle, copied or computed.
"""

import time
from collections.abc import Callable
from typing import Any, Literal, get_args

Phase = Literal["wait", "transfer", "compute"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Standing still for the next batch; copying it to the device; everything else in a step."""


class Phases:
    """Seconds by phase since they were last taken. One thread's."""

    def __init__(self, mark: Callable[[], Any], seconds_between: Callable[[Any, Any], float]):
        self._mark, self._seconds_between = mark, seconds_between
        self._marks: list[tuple[Any, Phase | None]] = []
        """Moments, each with the phase that began there; None while nothing is measured."""

    def begin(self, phase: Phase) -> None:
        """The phase before it ends here. Nothing, while nothing is measured."""
        if self._marks and self._marks[-1][1] not in (None, phase):
            self._marks.append((self._mark(), phase))

    def start(self) -> None:
        self._marks.append((self._mark(), "compute"))

    def stop(self) -> None:
        if self._marks:
            self._marks.append((self._mark(), None))

    def take(self) -> list[float]:
        """In the order of PHASES; waits for the device to come to the last mark."""
        if not self._marks:
            return [0.0] * len(PHASES)
        running = self._marks[-1][1]
        if running is not None:
            self._marks.append((self._mark(), running))
        seconds = dict.fromkeys((*PHASES, None), 0.0)
        for (start, phase), (end, _) in zip(self._marks, self._marks[1:], strict=False):
            seconds[phase] += self._seconds_between(start, end)
        self._marks = [self._marks[-1]]
        return [seconds[phase] for phase in PHASES]


def phases_on(device: str) -> Phases:
    """By the clock of the device, as torch.device names it, that does the work."""
    if not device.startswith("cuda"):
        return Phases(time.perf_counter, lambda start, end: end - start)
    import torch

    def mark() -> "torch.cuda.Event":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds_between(start: "torch.cuda.Event", end: "torch.cuda.Event") -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1000.0

    return Phases(mark, seconds_between)

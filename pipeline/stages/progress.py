"""How far a stage is: a bar with rate and time left on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(doing: str, total: int | None = None, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Yields `advance(count)`. Without a `total` it counts up. Lines go to stderr."""
    if sys.stderr.isatty():
        with _bar(unit) as bar:
            task = bar.add_task(doing, total=total)
            yield lambda count: bar.advance(task, count)
    else:
        yield _Lines(doing, total, unit)


class _Lines:
    def __init__(self, doing: str, total: int | None, unit: str):
        self._doing, self._total, self._unit = doing, total, unit
        self._started = self._last_line = time.monotonic()
        self._done = 0

    def __call__(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(self._line(now - self._started), file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        text = f"{self._doing}: {self._done:,}"
        if self._total is None or not rate:
            return f"{text} {self._unit}, {rate:,.0f}/s"
        left = (self._total - self._done) / rate
        return f"{text} of {self._total:,} {self._unit}, {rate:,.0f}/s, {left:,.0f} s left"


class _Rate(ProgressColumn):
    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0.0:,.0f} {self._unit}/s")


def _bar(unit: str) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))

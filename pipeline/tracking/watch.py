"""What the person at the terminal sees of a run, and what MLflow may know: rank 0's files, followed by the driver."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.artifacts import SCORES
from pipeline.tracking.figures import Figures, live_text, plain_text
from pipeline.tracking.pace import Pace
from pipeline.tracking.spool import Line, Position, read

POLL_SECONDS = 0.5

NARROW_COLUMNS = 120
"""A terminal of no more has no room for a bar and the time since the start beside 80 columns of figures."""

SPINNER_COLUMNS = 1 + 1
BAR_COLUMNS = 20
ELAPSED_COLUMNS = len("10 days, 10:00:00")
"""As rich writes it; with the bar and two spaces it leaves the figures 82 of 121 columns."""

SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal, between two log points that are told in an epoch: rare enough for a log of days, and soon
enough to see that a run goes on. An epoch's end is told whenever it comes."""


class Watch:
    """Follows a spool and a file of notices until its block ends; one live line on a terminal, plain lines elsewhere.

    An epoch is told with its validation, or at its last step in a run that `has_validation` False. With patience the
    run may end before its last step: the live line's end is then where it ends at the latest.
    `committed` gives the newest checkpoint's position, `on_committed` is told it with each look.
    """

    def __init__(
        self,
        spool: Path,
        notices: Path,
        *,
        num_steps: int,
        num_epochs: int,
        patience_epochs: int | None,
        has_validation: bool,
        committed: Callable[[], int],
        on_committed: Callable[[int], None],
        console: Console,
    ):
        self._spool, self._notices = spool, notices
        self._num_steps, self._num_epochs = num_steps, num_epochs
        self._last_step = num_steps
        """Earlier once patience is out."""
        self._steps_per_epoch = num_steps // num_epochs
        self._patience_epochs, self._has_validation = patience_epochs, has_validation
        self._committed, self._on_committed = committed, on_committed
        self._console = console
        self._position = Position()
        self._shown = (0, False)
        """Step, and whether with its score."""
        self._notices_offset = notices.stat().st_size if notices.exists() else 0
        self._metrics = {"train/loss": float("nan"), "train/images_per_second": 0.0}
        self._earlier_seconds = _newest_seconds(spool, num_steps)
        """When an earlier driver's ranks last wrote."""
        self._pace = Pace(self._steps_per_epoch, self._earlier_seconds)
        self._said_seconds: float | None = None
        """The time stamp of what was said last, or of the first line."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="convoy-watch", daemon=True)
        is_narrow = console.width <= NARROW_COLUMNS
        self._other_columns = SPINNER_COLUMNS if is_narrow else BAR_COLUMNS + 1 + 1 + ELAPSED_COLUMNS
        """Of the terminal, for what is beside the figures."""
        self._progress = Progress(
            SpinnerColumn("line") if is_narrow else BarColumn(bar_width=BAR_COLUMNS),
            TextColumn("{task.description}"),
            *([] if is_narrow else [TimeElapsedColumn()]),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("starting", total=num_steps)

    def __enter__(self) -> "Watch":
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line of its own, above the live one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        while True:
            last_look = self._ended.wait(POLL_SECONDS)
            self._look()
            if last_look:
                return

    def _look(self) -> None:
        self._on_committed(self._committed())
        if self._notices.exists():
            with self._notices.open(encoding="utf-8") as file:
                file.seek(self._notices_offset)
                for text in file.read().splitlines():
                    self.say(text)
                self._notices_offset = file.tell()
        lines, self._position = read(self._spool, self._position, committed_step=self._num_steps)
        for line in lines:
            self._show(line)

    def _show(self, line: Line) -> None:
        self._metrics |= line.metrics
        self._pace.take(line.step, line.time_seconds)
        is_validated = any(f"val/{name}" in line.metrics for name in SCORES)
        if (line.step, is_validated) <= self._shown:
            return  # told before a restart
        self._shown = (line.step, is_validated)
        if is_validated and self._patience_epochs is not None:
            without_gain = round(line.metrics["val/epochs_without_gain"])
            self._last_step = line.step if without_gain >= self._patience_epochs else self._num_steps
        figures = Figures(
            epoch=line.epoch,
            num_epochs=self._num_epochs,
            step=line.step,
            num_steps=self._num_steps,
            metrics=self._metrics,
            patience_epochs=self._patience_epochs,
            seconds_left=self._pace.seconds_left(self._last_step),
        )
        if is_validated or self._is_to_be_said(line):
            self._said_seconds = line.time_seconds
            self.say(plain_text(figures, is_validated))
        text = live_text(figures, self._console.width - self._other_columns)
        self._progress.update(self._bar, completed=line.step, total=self._last_step, description=text)

    def _is_to_be_said(self, line: Line) -> bool:
        """Of a log point: an epoch's end that no validation follows, or one after a long silence."""
        if line.step % self._steps_per_epoch == 0:  # what a validation says of it comes soon
            return not self._has_validation
        if self._said_seconds is None:
            self._said_seconds = line.time_seconds
        is_earlier = line.time_seconds <= self._earlier_seconds
        silent_seconds = line.time_seconds - self._said_seconds
        return not (self._console.is_terminal or is_earlier) and silent_seconds >= SECONDS_BETWEEN_LINES


def _newest_seconds(spool: Path, num_steps: int) -> float:
    """The last time stamp in it; 0 without a line."""
    newest, position, is_read = 0.0, Position(), False
    while not is_read:
        before = position
        lines, position = read(spool, before, committed_step=num_steps)
        newest = max([newest, *(line.time_seconds for line in lines)])
        is_read = position == before
    return newest

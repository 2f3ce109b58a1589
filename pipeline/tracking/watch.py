"""What the person at the terminal sees of a run, and what MLflow may know: rank 0's files, followed by the driver."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.artifacts import SCORES
from pipeline.tracking.spool import Line, Position, read

POLL_SECONDS = 0.5

NARROW_COLUMNS = 120
"""A terminal of no more has no room for a bar beside the figures and the times."""


class Watch:
    """Follows a spool and a file of notices until its block ends; one live line on a terminal, plain lines elsewhere.

    With patience the run may end before its last step: the live line's end is then where it ends at the latest.
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
        committed: Callable[[], int],
        on_committed: Callable[[int], None],
        console: Console,
    ):
        self._spool, self._notices = spool, notices
        self._num_steps, self._num_epochs = num_steps, num_epochs
        self._patience_epochs = patience_epochs
        self._committed, self._on_committed = committed, on_committed
        self._console = console
        self._position = Position()
        self._shown = (0, False)
        """Step, and whether with its score."""
        self._notices_offset = notices.stat().st_size if notices.exists() else 0
        self._figures = {"train/loss": float("nan"), "train/images_per_second": 0.0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="convoy-watch", daemon=True)
        self._progress = Progress(
            TextColumn("[bold]train[/]"),
            *([BarColumn(bar_width=30)] if console.width > NARROW_COLUMNS else []),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left" if patience_epochs is None else "left at most"),
            TimeRemainingColumn(),
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
        self._figures |= line.metrics
        score = next((name for name in SCORES if f"val/{name}" in line.metrics), None)
        if (line.step, score is not None) <= self._shown:
            return  # told before a restart
        self._shown = (line.step, score is not None)
        text = (
            f"epoch {line.epoch}/{self._num_epochs} step {line.step}/{self._num_steps} | "
            f"loss {self._figures['train/loss']:.4f} | {self._figures['train/images_per_second']:,.0f} img/s"
        )
        now = text.partition(" ")[2].partition(" ")[2]  # the live line has no room for the epoch
        if score is not None:
            text += f" | validation {SCORES[score]} {line.metrics[f'val/{score}']:.4f}"
            text += f" loss {line.metrics['val/loss']:.4f}"
            if self._patience_epochs is not None:
                without_gain = round(line.metrics["val/epochs_without_gain"])
                text += f" | {without_gain} of {self._patience_epochs} epochs without gain"
                if without_gain >= self._patience_epochs:
                    self._num_steps = line.step
            self.say(text)
        self._progress.update(self._bar, completed=line.step, total=self._num_steps, description=now)

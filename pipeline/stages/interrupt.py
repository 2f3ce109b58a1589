"""Ctrl-C and SIGTERM during training: the first asks for a checkpoint after the next step, the second ends at once.

That dvc has gone asks for the same, but never is the second: a signal to all of a terminal or a job ends dvc, too.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARENT_GONE = signal.SIGUSR2
"""What a command sends itself when the dvc that started it is gone."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, PARENT_GONE)


class Stop:
    """The file that the ranks look for, and who wants it there: the person at the terminal, or the launcher."""

    def __init__(self, path: Path):
        self._path = path
        self.heard: list[int] = []
        """Signals of the person's."""

    def ask(self) -> None:
        self._path.touch()

    def lift(self) -> bool:
        """Takes the launcher's wish back; False when the person wants the end too."""
        self._path.unlink(missing_ok=True)
        if self.heard:
            self._path.touch()
        return not self.heard

    def is_asked(self) -> bool:
        """Whether the person wishes the end."""
        return bool(self.heard)

    def end_if_asked(self) -> None:
        """Ends the command as the first signal would have done, if there was one."""
        if self.heard:
            _end(self.heard[0])


@contextmanager
def stopping_gently(path: Path, say: Callable[[str], None]) -> Iterator[Stop]:
    """While it lasts, the first signal makes the file `path`. A wish of an earlier command is forgotten."""
    path.unlink(missing_ok=True)
    stop = Stop(path)

    def hear(signum: int, _frame: object) -> None:
        if stop.heard:
            if signum == PARENT_GONE:
                return
            _end(signum)
        stop.heard.append(signum)
        stop.ask()
        say("stopping after the next step, with a checkpoint; the same again ends it at once")

    old = {signum: signal.signal(signum, hear) for signum in _SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _end(signum: int) -> None:
    """Not KeyboardInterrupt: Lightning turns that into an exit code of 1."""
    raise SystemExit(128 + (signal.SIGTERM if signum == PARENT_GONE else signum))

"""Ctrl-C and SIGTERM during training: the first asks for a checkpoint after the next step, the second ends at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping_gently(stop: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """While it lasts, the first signal makes the file `stop`, which the ranks look for.

    Gives a function that ends the command as the signal would have done, if there was one. A wish of an earlier
    command is forgotten.
    """
    stop.unlink(missing_ok=True)
    heard: list[int] = []

    def hear(signum: int, _frame: object) -> None:
        if heard:
            _end(signum)
        heard.append(signum)
        stop.touch()
        say("stopping after the next step, with a checkpoint; the same again ends it at once")

    def end_if_asked() -> None:
        if heard:
            _end(heard[0])

    old = {signum: signal.signal(signum, hear) for signum in _SIGNALS}
    try:
        yield end_if_asked
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)


def _end(signum: int) -> None:
    """Not KeyboardInterrupt: Lightning turns that into an exit code of 1."""
    raise SystemExit(128 + signum)

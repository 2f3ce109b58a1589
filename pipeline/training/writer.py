"""One rank 0 a run's folder: the one of a driver that was killed may live on for a moment beside its successor."""

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import LockedError

PATIENCE_SECONDS = 60.0
"""A rank whose driver was killed ends with its node's raylet, within seconds."""

_POLL_SECONDS = 0.2


@contextmanager
def sole_writer(path: Path, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Holds the lock on `path`, which the kernel gives up with its holder; waits for one that is on its way out.

    Raises LockedError naming a holder that stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience_seconds
    with open(path, "a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise LockedError(
                        f"{path.parent} is still being trained in by {file.read().strip() or 'another process'} after "
                        f"{patience_seconds:.0f} s; end it, then run this again."
                    ) from exc
                threading.Event().wait(_POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield

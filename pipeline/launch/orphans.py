"""Ray's worker processes that outlive their node's raylet."""

import os
import signal
import threading

_POLL_SECONDS = 1.0


def end_with_the_node() -> None:
    """Ends this process when its raylet is gone: it would go on holding the run's folder. Ray itself looks whether its
    parent is process 1, which is not who inherits it under a subreaper."""
    raylet = os.getppid()

    def watch() -> None:
        while os.getppid() == raylet:
            threading.Event().wait(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="convoy-raylet", daemon=True).start()

"""Whether the head of a Ray cluster still answers.

Without its head Ray answers nothing: what is asked hangs, and after a minute Ray ends the asking process with a word of
its own, wherever that is. Who watches can say first what happened and how to go on.
"""

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import ClusterError

Result = TypeVar("Result")

PATIENCE_SECONDS = 20.0
"""A head may be started again meanwhile. Well under gcs_rpc_server_reconnect_timeout_s, Ray 2.60's own 60 s, because a
run has its end to tell after that."""

_KNOCK_SECONDS = 5.0
_POLL_SECONDS = 1.0
_DYING_SECONDS = 3.0
"""`ray stop` ends a head's processes one after the other, the one that answers last. Not measured: what takes longer is
noticed by the watch."""


def knock(address: str) -> None:
    """Raises OSError, or ValueError for what is no address, when nobody listens there."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


class Head:
    """Knocks at an address, host:port, from a thread of its own for as long as a `with` lasts."""

    def __init__(self, address: str, patience_seconds: float = PATIENCE_SECONDS):
        self._address, self._patience_seconds = address, patience_seconds
        self._ended = threading.Event()
        self._is_lost = False

    def __enter__(self) -> "Head":
        self._thread = threading.Thread(target=self._watch, name="convoy-head", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def answers(self) -> bool:
        """Whether it does so this moment. Once it is lost, another one at its address is none of ours."""
        try:
            knock(self._address)
        except OSError:
            return False
        return not self._is_lost

    def check(self) -> None:
        """Raises ClusterError once it has been silent for too long."""
        if self._is_lost:
            raise ClusterError(
                f"The head of the Ray cluster at {self._address} does not answer any more. Nothing is gone: once there "
                "is a head again, run the same command to go on."
            )

    def await_answer(self) -> None:
        """Comes back as soon as it answers, before Ray is asked for anything. Raises ClusterError as `check` does."""
        while not self.answers():
            self.check()
            self._ended.wait(_POLL_SECONDS)

    def insist(self) -> None:
        """Raises ClusterError when it goes in these seconds: something was lost that lives beside it."""
        deadline = time.monotonic() + _DYING_SECONDS
        while time.monotonic() < deadline:
            self._is_lost |= not self.answers()
            self.check()
            self._ended.wait(_POLL_SECONDS / 2)

    def watched(self, call: Callable[[], Result]) -> Result:
        """Waits for a call in a thread of its own, which is no obstacle to the process's end.

        In the main thread Ray Train and Ray Tune take Ctrl-C for themselves, where the caller may want something else
        first. Raises what the call raises, and ClusterError as `check` does, without waiting for the call any longer.
        """
        outcome: concurrent.futures.Future[Result] = concurrent.futures.Future()

        def run() -> None:
            try:
                outcome.set_result(call())
            except BaseException as exc:
                outcome.set_exception(exc)

        threading.Thread(target=run, name="convoy-ray", daemon=True).start()
        while not concurrent.futures.wait([outcome], _POLL_SECONDS).done:
            self.check()
        return outcome.result()

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._ended.wait(_POLL_SECONDS):
            with contextlib.suppress(OSError):
                knock(self._address)
                answered = time.monotonic()
            if time.monotonic() - answered > self._patience_seconds:
                self._is_lost = True
                return

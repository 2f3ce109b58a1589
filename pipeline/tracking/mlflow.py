"""The driver's side of tracking: one MLflow run a training run, fed from the spool by a thread of its own.

Nothing here makes training wait or fail: a dead server costs `OPEN_SECONDS` at the start and `drain_seconds` at the
end; what could not be sent stays on disk for the next start. Sending a line twice is harmless: MLflow's tables take
the same key, step, time and value once.
"""

import logging
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.tracking import address, environment
from pipeline.tracking.run import Dataset, Status, next_attempt
from pipeline.tracking.sender import Sender
from pipeline.tracking.store import translating

OPEN_SECONDS = 5.0
"""What a dead store may cost at the start; a slow one is opened beside the training."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0

log = logging.getLogger(__name__)


def open_run(
    uri: str,
    experiment: str,
    run_folder: Path,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: Dataset,
    open_seconds: float = OPEN_SECONDS,
) -> "Tracker":
    """The tracker of the MLflow run that belongs to `run_folder`, created or continued; `uri` is a resolved address.

    Waits for the store for `open_seconds`, then returns without a run id and goes on trying. The spool to be filled
    is `run_folder / run.SPOOL_FILE`.
    """
    environment.prepare(max_retries=0)
    import mlflow  # noqa: F401 - in this thread: an import in the sender's could meet one of the trainer's half done

    run_folder.mkdir(parents=True, exist_ok=True)
    record = next_attempt(run_folder, address.strip_credentials(uri), experiment, name, params, tags, dataset)
    tracker = Tracker(Sender(uri, run_folder, record))
    tracker.wait_until_open(open_seconds)
    return tracker


class Tracker:
    """Sends the committed part of the spool while training goes on. Every method returns at once but `finish`
    and `wait_until_open`."""

    def __init__(self, sender: Sender):
        self._sender = sender
        self._changed = threading.Condition()
        self._committed_step = -1
        self._status: Status = "RUNNING"
        self._deadline: float | None = None
        self.problem: str | None = None
        """Why the store could not be used at the last attempt; None while all is well."""
        self._thread = threading.Thread(target=self._send_forever, name="mlflow-sender", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """None until the store was reached."""
        return self._sender.record.run_id

    def wait_until_open(self, timeout_seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._sender.is_open, timeout_seconds)

    def pump(self, committed_step: int) -> None:
        """Lets everything up to a step leave that no restart will take back."""
        with self._changed:
            self._committed_step = max(self._committed_step, committed_step)
            self._changed.notify_all()

    def finish(self, status: Status, drain_seconds: float, tags: Mapping[str, str] | None = None) -> bool:
        """True when the store has all committed metrics, the final status and `tags`; False after `drain_seconds`.

        What is left lies in the run folder, with the status, for the next start to send.
        """
        with self._changed:
            self._status, self._deadline = status, time.monotonic() + drain_seconds
            try:
                self._sender.update_record(
                    status=status, committed_step=self._committed_step, end_tags=dict(tags or {})
                )
            except OSError as exc:  # a full disk has ended the training: its own message must not be lost to this one
                self.problem = f"The run's folder cannot be written ({exc.strerror})."
            self._changed.notify_all()
        self._thread.join(drain_seconds)
        if not self._sender.is_finished and self.problem is None:
            store = address.strip_credentials(self._sender.uri)
            self.problem = f"The MLflow store {store} did not take everything within {drain_seconds:.0f} s."
        return self._sender.is_finished

    def _send_forever(self) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                wanted = (self._committed_step, self._status)
            self._attempt(*wanted)
            with self._changed:
                self._changed.notify_all()
                is_late = self._deadline is not None and time.monotonic() > self._deadline
                if self._sender.is_finished or is_late:
                    return
                if self.problem is None:
                    pause_seconds = FIRST_PAUSE_SECONDS
                    self._changed.wait_for(partial(self._wants_other_than, *wanted))
                else:
                    # Only the end of training cuts the pause short, and then there is a deadline to retry for.
                    if self._deadline is not None:
                        pause_seconds = FIRST_PAUSE_SECONDS
                    self._changed.wait_for(partial(self._has_other_status, wanted[1]), pause_seconds)
                    pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    def _attempt(self, committed_step: int, status: Status) -> None:
        try:
            with translating(self._sender.uri):
                self._sender.advance(committed_step, status)
            self.problem = None
        except TrackingError as exc:
            self._fail(str(exc))
        except Exception as exc:
            # A defect in tracking costs the curves, never the training.
            log.exception("The MLflow sender failed.")
            self._fail(repr(exc))

    def _wants_other_than(self, committed_step: int, status: Status) -> bool:
        return (self._committed_step, self._status) != (committed_step, status)

    def _has_other_status(self, status: Status) -> bool:
        return self._status != status

    def _fail(self, problem: str) -> None:
        if self.problem is None:
            log.warning("%s Training goes on; its metrics wait in the run folder.", problem)
        self.problem = problem

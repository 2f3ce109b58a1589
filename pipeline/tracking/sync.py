"""Sends what a run's folder still holds for MLflow, when no training does: its server was down, or its driver died."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.tracking import address, environment
from pipeline.tracking.run import RUN_FILE, RunRecord
from pipeline.tracking.sender import Sender
from pipeline.tracking.store import translating


def send_waiting(run_folder: Path, uri: str, committed_step: int, end_tags: Mapping[str, str] | None = None) -> str:
    """Brings the MLflow run of `run_folder` up to `committed_step` and to its final status; gives its run id.

    What was committed when the run ended counts, if it was more: its checkpoints may be gone since. `uri` is the
    resolved address, with credentials. A run whose driver ended without a word was killed, but for one that had come
    to its end, of which `end_tags` say how. Raises TrackingError for a run that belongs to another store, and when the
    store cannot be used.
    """
    environment.prepare()
    record = RunRecord.read(run_folder / RUN_FILE)
    if record is None:
        raise TrackingError(
            f"{run_folder / RUN_FILE} cannot be read, so its run is unknown; `convoy train` makes it anew."
        )
    if record.uri != address.strip_credentials(uri):
        raise TrackingError(
            f"{run_folder.name} belongs to the store {record.uri}, and tracking.uri (or MLFLOW_TRACKING_URI) names "
            f"{address.strip_credentials(uri)}; name its own store to send it."
        )
    status = "KILLED" if record.status == "RUNNING" else record.status
    if end_tags:
        record, status = record.model_copy(update={"end_tags": dict(end_tags)}), "FINISHED"
    committed_step = max(committed_step, record.committed_step)
    sender = Sender(uri, run_folder, record)
    with translating(uri):
        sender.advance(committed_step, status)
    sender.update_record(status=status, committed_step=committed_step)
    return sender.record.run_id

"""Brings one MLflow run up to what the run folder holds. Any call into the store may raise; `advance` is then called
again and goes on where the store stopped.
"""

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.tracking import spool
from pipeline.tracking.run import FILES_FOLDER, RUN_FILE, SENT_FILE, SPOOL_FILE, RunRecord, SentRecord, Status
from pipeline.tracking.store import connect, find_or_create_experiment, find_run

if TYPE_CHECKING:
    import mlflow
    import mlflow.entities

# mlflow/utils/validation.py, 3.17
MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
MAX_DIGEST_CHARS = 36

TOKEN_TAG = "convoy.token"
PAGE_TAGS = {"mlflow.source.name": "convoy train", "mlflow.source.type": "LOCAL"}
"""What a run's page shows as its source."""


class Sender:
    """Owns the client and the two records; used by one thread, but for `update_record`."""

    def __init__(self, uri: str, run_folder: Path, record: RunRecord):
        self.uri = uri
        self.record = record
        self.is_open = False
        self.is_finished = False
        self._folder = run_folder
        self._client: mlflow.MlflowClient | None = None
        self._sent: SentRecord | None = None
        self._start_ms = 0
        self._record_lock = threading.Lock()

    def update_record(self, **fields: object) -> None:
        """Changes mlflow_run.json; callable from any thread."""
        with self._record_lock:
            self.record = self.record.model_copy(update=fields)
            self.record.write(self._folder / RUN_FILE)

    def advance(self, committed_step: int, status: Status) -> None:
        """Opens the run, sends every committed line and every file, and ends the run when `status` is a final one."""
        if self._client is None:
            self._client = connect(self.uri)
        if not self.is_open:
            self._open(self._client)
        self._send(self._client, committed_step)
        self._send_files(self._client)
        if status != "RUNNING":
            self._tag(self._client, self.record.end_tags)
            # A run that began under a clock that was ahead lasted no less than no time.
            end_ms = max(round(time.time() * 1000), self._start_ms)
            self._client.set_terminated(self._sent.run_id, status, end_ms)
            self._mark_sent(status=status)
            self.is_finished = True

    def _open(self, client: "mlflow.MlflowClient") -> None:
        run = self._find(client)
        if run is None:
            experiment_id = find_or_create_experiment(client, self.uri, self.record.experiment)
            run = client.create_run(experiment_id, tags={TOKEN_TAG: self.record.token}, run_name=self.record.name)
        self.update_record(run_id=run.info.run_id)
        self._start_ms = run.info.start_time
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self._describe(client, run)
        sent = SentRecord.read(self._folder / SENT_FILE)
        if sent is None or sent.run_id != run.info.run_id:
            sent = SentRecord(run_id=run.info.run_id)
        self._sent = sent
        self._mark_sent(status="RUNNING")
        self.is_open = True

    def _find(self, client: "mlflow.MlflowClient") -> "mlflow.entities.Run | None":
        """The run of an earlier attempt, unless somebody deleted it."""
        if self.record.run_id is not None:
            return find_run(client, self.record.run_id)
        experiment = client.get_experiment_by_name(self.record.experiment)
        if experiment is None:
            return None
        # A kill or a lost answer between the creation of a run and the note of its id.
        found = client.search_runs([experiment.experiment_id], f"tags.`{TOKEN_TAG}` = '{self.record.token}'")
        return found[0] if found else None

    def _describe(self, client: "mlflow.MlflowClient", run: "mlflow.entities.Run") -> None:
        """Params, tags and the data set. MLflow's params cannot change: what a later attempt has else is a tag."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        params = {key: _shorten(value, MAX_PARAM_CHARS) for key, value in self.record.params.items()}
        tags = PAGE_TAGS | self.record.tags | {"attempts": str(self.record.attempts)}
        for key, value in params.items():
            if run.data.params.get(key, value) != value or f"changed.{key}" in run.data.tags:  # it may change back
                tags[f"changed.{key}"] = value
        missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        for start in range(0, len(missing), MAX_PARAMS_PER_BATCH):
            client.log_batch(run.info.run_id, params=missing[start : start + MAX_PARAMS_PER_BATCH])
        self._tag(client, tags)
        data = self.record.dataset
        entity = Dataset(
            name=data.name,
            digest=data.digest[:MAX_DIGEST_CHARS],
            source_type="local",
            source=json.dumps({"digest": data.digest}),
            profile=json.dumps({"class_counts": data.class_counts}),
        )
        client.log_inputs(run.info.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _tag(self, client: "mlflow.MlflowClient", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(key, _shorten(value, MAX_TAG_CHARS)) for key, value in tags.items()]
        for start in range(0, len(entries), MAX_PARAMS_PER_BATCH):
            client.log_batch(self.record.run_id, tags=entries[start : start + MAX_PARAMS_PER_BATCH])

    def _send(self, client: "mlflow.MlflowClient", committed_step: int) -> None:
        from mlflow.entities import Metric

        path = self._folder / SPOOL_FILE
        while True:
            start = spool.Position(self._sent.generation, self._sent.offset)
            lines, end = spool.read(path, start, committed_step)
            if end == start:
                return
            last_steps, metrics = dict(self._sent.last_steps), []
            for line in lines:
                for key, value in line.metrics.items():
                    # Steps that were done again after a fall-back to an older checkpoint are already there.
                    if line.step > last_steps.get(key, -1):
                        metrics.append(Metric(key, value, round(line.time_seconds * 1000), line.step))
                        last_steps[key] = line.step
            for batch in range(0, len(metrics), MAX_METRICS_PER_BATCH):
                client.log_batch(self._sent.run_id, metrics=metrics[batch : batch + MAX_METRICS_PER_BATCH])
            self._mark_sent(generation=end.generation, offset=end.offset, last_steps=last_steps)

    def _send_files(self, client: "mlflow.MlflowClient") -> None:
        for path in sorted((self._folder / FILES_FOLDER).glob("[!.]*")):
            if path.name not in self._sent.files:
                client.log_artifact(self._sent.run_id, str(path))
                self._mark_sent(files=[*self._sent.files, path.name])

    def _mark_sent(self, **fields: object) -> None:
        self._sent = self._sent.model_copy(update=fields)
        self._sent.write(self._folder / SENT_FILE)


def _shorten(value: str, max_chars: int) -> str:
    """MLflow refuses longer values."""
    return value if len(value) <= max_chars else value[: max_chars - 1] + "…"

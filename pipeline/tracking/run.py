"""What a run folder remembers of its MLflow run, so that a restart, or a later command, continues the same one.

`mlflow_run.json` says what the run is and what became of it; `mlflow_sent.json` how much of the spool the store has.
Both are replaced atomically. Imports no mlflow.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import pydantic

RUN_FILE = "mlflow_run.json"
SENT_FILE = "mlflow_sent.json"
SPOOL_FILE = "metrics.jsonl"
FILES_FOLDER = "files"
"""What lies in it becomes the run's artifacts; a file appears in it whole and never changes."""

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Dataset(pydantic.BaseModel):
    """The data of a run, as its MLflow page names it."""

    model_config = pydantic.ConfigDict(frozen=True)

    name: str
    digest: str
    class_counts: dict[str, int]
    """Training samples by class name."""


class _Record(pydantic.BaseModel):
    def write(self, path: Path) -> None:
        private = path.with_name(f".{path.name}.partial")
        with private.open("w", encoding="utf-8") as file:
            file.write(self.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        private.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None where there is no whole record."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, pydantic.ValidationError):
            return None


class RunRecord(_Record):
    """mlflow_run.json: enough to create the run later, when the server was down."""

    uri: str
    """Without credentials."""
    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    dataset: Dataset
    attempts: int = 0
    token: str = pydantic.Field(default_factory=lambda: uuid.uuid4().hex)
    """A tag of the run: finds a run that was created just before its id could be written here."""
    run_id: str | None = None
    status: Status = "RUNNING"
    end_tags: dict[str, str] = {}
    """What a run that came to its end has besides `tags`."""
    committed_step: int = -1
    """Spool lines up to this step belong to the run."""


class SentRecord(_Record):
    """mlflow_sent.json"""

    run_id: str
    generation: str = ""
    offset: int = 0
    last_steps: dict[str, int] = {}
    """The last step sent, by metric."""
    files: list[str] = []
    """Names of those sent."""
    status: Status = "RUNNING"


def is_published(folder: Path) -> bool:
    """Whether the store has the whole history and the final status of the run in `folder`."""
    record, sent = RunRecord.read(folder / RUN_FILE), SentRecord.read(folder / SENT_FILE)
    return record is not None and sent is not None and sent.status == record.status != "RUNNING"


def is_finished_in(folder: Path, uri: str, experiment: str) -> bool:
    """Whether this store, named without credentials, has the whole history of the run in `folder`, in this experiment
    and as FINISHED."""
    record = RunRecord.read(folder / RUN_FILE)
    return (
        record is not None
        and (record.uri, record.experiment, record.status) == (uri, experiment, "FINISHED")
        and is_published(folder)
    )


def next_attempt(
    folder: Path,
    uri: str,
    experiment: str,
    name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: Dataset,
) -> RunRecord:
    """The record of this attempt, written: the one in `folder` continued, a new one in another store's place."""
    old = RunRecord.read(folder / RUN_FILE)
    record = RunRecord(
        uri=uri,
        experiment=experiment,
        name=name,
        params={key: str(value) for key, value in params.items()},
        tags=dict(tags),
        dataset=dataset,
        attempts=1 if old is None else old.attempts + 1,
    )
    if old is not None and (old.uri, old.experiment) == (uri, experiment):
        record = record.model_copy(update={"token": old.token, "run_id": old.run_id})
    record.write(folder / RUN_FILE)
    return record

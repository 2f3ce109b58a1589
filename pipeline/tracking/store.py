"""One way to an MLflow store: flags set, a new sqlite file made by one process at a time, foreign errors translated.

Everything that talks to MLflow is handed the client that `connect` returns.
"""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import TrackingError
from pipeline.tracking import address, environment

if TYPE_CHECKING:
    import mlflow
    import mlflow.entities

PAGE_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow 3 show an experiment with the pages for training, not those for language models."""


def connect(uri: str) -> "mlflow.MlflowClient":
    """A client of the store at a resolved address; a sqlite store that is not there is made.

    Raises TrackingError when the store cannot be opened; a server is not contacted yet.
    """
    environment.prepare()
    import mlflow

    path = address.sqlite_file(uri)
    with translating(uri):
        if path is None:
            return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Three processes that open a new sqlite store at once die in its migrations.
        with open(path.with_name(f"{path.name}.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _make_sqlite(path)
            return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_sqlite(path: Path) -> None:
    """A new store, there as a whole or not at all: MLflow never opens one again whose making was killed half way."""
    import mlflow

    partial = path.with_name(f".{path.name}.partial")
    for left in (partial, partial.with_name(f"{partial.name}-journal")):
        left.unlink(missing_ok=True)
    uri = f"{address.SQLITE}{partial}"
    mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    partial.replace(path)


def find_or_create_experiment(client: "mlflow.MlflowClient", uri: str, name: str) -> str:
    """The experiment's id. In a sqlite store its artifacts lie beside the file, wherever a process was started."""
    import mlflow.exceptions

    for _ in range(2):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"The MLflow experiment {name!r} was deleted; restore it (`mlflow experiments restore -x "
                f"{experiment.experiment_id}`) or choose another tracking.experiment."
            )
        if experiment is not None:
            return experiment.experiment_id
        path = address.sqlite_file(uri)
        try:
            return client.create_experiment(name, (path.parent / "mlruns").as_uri() if path else None, PAGE_TAGS)
        except mlflow.exceptions.MlflowException as exc:
            # Another process was quicker: the second round finds its experiment.
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    raise TrackingError(f"The MLflow experiment {name!r} appears and vanishes; is somebody deleting it? Try again.")


def find_run(client: "mlflow.MlflowClient", run_id: str) -> "mlflow.entities.Run | None":
    """None where the store does not have it, or somebody deleted it."""
    import mlflow.exceptions

    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Of a folder of this machine, which MLflow copies files to and from."""


@contextmanager
def translating(uri: str) -> Iterator[None]:
    """Whatever MLflow, its database or its HTTP client raises comes out as one TrackingError."""
    import mlflow.exceptions
    import requests
    import sqlalchemy.exc

    try:
        yield
    except (
        mlflow.exceptions.MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
        OSError,
    ) as exc:
        first_line = next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
        is_disk = isinstance(exc, OSError) and exc.errno in DISK_ERRORS
        remedy = "check tracking.uri (or MLFLOW_TRACKING_URI) and that the store is up"
        raise TrackingError(
            f"The MLflow store {address.strip_credentials(uri)} cannot be used: "
            f"{address.strip_credentials_in(first_line, uri)[:500]}; {'free or mend that disk' if is_disk else remedy}."
        ) from exc

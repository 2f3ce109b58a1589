"""A run that others lie under: that of a sweep, which trains nothing itself."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.tracking.run import Status
from pipeline.tracking.store import connect, find_or_create_experiment, find_run, translating

ID_FILE = "mlflow_run_id"


def open_parent(uri: str, experiment: str, name: str, params: Mapping[str, object], folder: Path) -> str:
    """The id of the run that `folder` remembers, or of a new one that it then does; `uri` is a resolved address.

    A new one, too, where the store does not have the remembered one any more, or is another. Raises TrackingError.
    """
    path = folder / ID_FILE
    client = connect(uri)
    from mlflow.entities import Param  # only now: `connect` sets what MLflow reads when it is imported

    with translating(uri):
        run_id = path.read_text() if path.exists() else ""  # an earlier one may have been killed while it wrote
        if run_id and find_run(client, run_id) is not None:
            client.update_run(run_id, status="RUNNING")
            return run_id
        experiment_id = find_or_create_experiment(client, uri, experiment)
        tags = {"mlflow.source.name": "convoy sweep", "mlflow.source.type": "LOCAL"}
        run = client.create_run(experiment_id, tags=tags, run_name=name)
        client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in params.items()])
    path.write_text(run.info.run_id)
    return run.info.run_id


def close_parent(uri: str, run_id: str, status: Status, metrics: Mapping[str, float]) -> None:
    """Ends it with its figures. Raises TrackingError."""
    client = connect(uri)
    with translating(uri):
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        client.set_terminated(run_id, status)

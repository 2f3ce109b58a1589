"""An exported model becomes a version in MLflow's registry: once for the same weights, with a verdict and an alias.

Raises what MLflow raises; the caller, who opened the store, translates.
"""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Registration, Run
from pipeline.errors import ArtifactError, ParamsError
from pipeline.metrics import Metrics, MultiLabelMetrics
from pipeline.registry import gate, lineage, package, paired

if TYPE_CHECKING:
    import mlflow
    import mlflow.entities.model_registry

CHAMPION, CHALLENGER = "champion", "challenger"
MAX_TAG_CHARS = 5000
"""MLflow's registry takes 100,000, a hosted one 5,000."""


def register(
    client: "mlflow.MlflowClient",
    uri: str,
    experiment_id: str,
    folder: Path,
    model_name: str,
    threshold: gate.Threshold,
    run: Run,
    metrics: Metrics | MultiLabelMetrics,
    run_files: list[Path],
    predictions: Path | None = None,
) -> Registration:
    """The registration of the export in `folder`, whose figures are `metrics`; `run` is the one that trained it.

    `run_files` are added to the training run, if the store has it. With `predictions`, the table that a multi-label
    model was measured by, it is compared with the champion on the same resampled images, if that one's table is in the
    store.

    Raises ParamsError for a name that cannot be used, ArtifactError when the logged model does not answer as the export
    does.
    """
    import mlflow

    check_name(model_name)
    # The registry's own code opens the global address (mlflow/store/model_registry/sqlalchemy_store.py).
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment(experiment_id=experiment_id)

    run_id = lineage.find_run(client, run.run_id)
    tags = lineage.version_tags(run, metrics)
    version = _find_version(client, model_name, metrics.weights_sha256)
    if version is None:
        model_uri = _log_once(client, experiment_id, folder, model_name, metrics.weights_sha256, run_id)
        version = _create_version(client, model_name, model_uri, run_id, tags)
        first = _find_version(client, model_name, metrics.weights_sha256)
        if first is not None and first.version != version.version:  # another machine was quicker
            client.delete_model_version(model_name, str(version.version))
            version = first
    if run_id is not None:
        model_id = version.source.removeprefix("models:/")
        lineage.complete_run(client, run_id, model_id, run.num_steps, metrics, run_files)

    champion = _champion(client, model_name)
    number = str(version.version)
    challenger = gate.Measured(number, metrics.score, metrics.num_samples, metrics.index_digest)
    difference = _difference(client, champion, predictions)
    verdict = gate.decide(challenger, _measured(champion, metrics.score_name), threshold, difference)
    champion_number = _move_aliases(client, model_name, number, verdict.promoted, champion)
    tags |= {"verdict": "promoted" if verdict.promoted else "held back", "reasons": " ".join(verdict.reasons)}
    for key, value in tags.items():
        client.set_model_version_tag(model_name, number, key, value[:MAX_TAG_CHARS])
    return Registration(
        model_name=model_name,
        version=number,
        model_uri=f"models:/{model_name}/{number}",
        weights_sha256=metrics.weights_sha256,
        alias=CHAMPION if champion_number == number else CHALLENGER,
        promoted=verdict.promoted,
        reasons=verdict.reasons,
        top1=metrics.top1 if isinstance(metrics, Metrics) else None,
        mean_ap=metrics.mean_ap if isinstance(metrics, MultiLabelMetrics) else None,
        champion_version=champion_number,
        run_id=run_id,
        tracking_uri=uri,
    )


def check_name(model_name: str) -> None:
    """Raises ParamsError for a name that MLflow, its filters or its addresses cannot hold."""
    if not re.fullmatch(r"[\w-]+( [\w-]+)*", model_name):
        raise ParamsError(
            f"registry.model_name={model_name!r} cannot be a model's name; use letters, digits, spaces, '_', '-'."
        )


def _find_version(
    client: "mlflow.MlflowClient", model_name: str, sha256: str
) -> "mlflow.entities.model_registry.ModelVersion | None":
    found = client.search_model_versions(f"name = '{model_name}' and tags.weights_sha256 = '{sha256}'")
    return min(found, key=lambda version: int(version.version), default=None)


def _log_once(
    client: "mlflow.MlflowClient", experiment_id: str, folder: Path, model_name: str, sha256: str, run_id: str | None
) -> str:
    """The URI of the logged and checked model: the one that a killed attempt of the same run left, or a new one."""
    found = client.search_logged_models([experiment_id], f"tags.weights_sha256 = '{sha256}'")
    whole = (model for model in found if model.status == "READY" and model.source_run_id == run_id)
    model_uri = next((f"models:/{model.model_id}" for model in whole), None) or package.log(folder, model_name, run_id)
    try:
        package.check(model_uri, folder)
    except ArtifactError:
        client.delete_logged_model(model_uri.removeprefix("models:/"))
        raise
    return model_uri


def _create_version(
    client: "mlflow.MlflowClient", model_name: str, model_uri: str, run_id: str | None, tags: dict[str, str]
) -> "mlflow.entities.model_registry.ModelVersion":
    import mlflow.exceptions

    try:
        client.create_registered_model(model_name)
    except mlflow.exceptions.MlflowException as exc:
        if exc.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = model_uri.removeprefix("models:/")
    return client.create_model_version(model_name, model_uri, run_id, tags, model_id=model_id)


def _champion(client: "mlflow.MlflowClient", model_name: str) -> "mlflow.entities.model_registry.ModelVersion | None":
    aliases = client.get_registered_model(model_name).aliases
    return client.get_model_version(model_name, aliases[CHAMPION]) if CHAMPION in aliases else None


def _measured(version: "mlflow.entities.model_registry.ModelVersion | None", score_name: str) -> gate.Measured | None:
    """None also for a version that somebody registered by hand, without figures, and for one of another kind."""
    if version is None or not {score_name, "num_test_samples", "index_digest"} <= version.tags.keys():
        return None
    score, num_samples = float(version.tags[score_name]), int(version.tags["num_test_samples"])
    return gate.Measured(str(version.version), score, num_samples, version.tags["index_digest"])


def _difference(
    client: "mlflow.MlflowClient",
    champion: "mlflow.entities.model_registry.ModelVersion | None",
    predictions: Path | None,
) -> gate.Difference | None:
    """None where the champion's table is not to be had, is damaged, or is of other images."""
    import mlflow.exceptions
    import pyarrow

    if champion is None or predictions is None or not champion.run_id:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            table = client.download_artifacts(champion.run_id, f"{predictions.parent.name}/{predictions.name}", folder)
            return paired.difference(predictions, Path(table))
        except (mlflow.exceptions.MlflowException, pyarrow.ArrowException, OSError):  # deleted, never published, cut
            return None


def _move_aliases(
    client: "mlflow.MlflowClient",
    model_name: str,
    number: str,
    is_promoted: bool,
    champion: "mlflow.entities.model_registry.ModelVersion | None",
) -> str | None:
    """The champion's number afterwards. A verdict never takes the alias from the one that has it to leave none."""
    champion_number = str(champion.version) if champion else None
    if is_promoted and champion_number != number:
        client.set_registered_model_alias(model_name, CHAMPION, number)
        champion_number = number
    if champion_number != number:
        client.set_registered_model_alias(model_name, CHALLENGER, number)
    elif str(client.get_registered_model(model_name).aliases.get(CHALLENGER)) == number:
        client.delete_registered_model_alias(model_name, CHALLENGER)
    return champion_number

"""What joins a registered version to its images, parameters, code and run: tags on the version, the run completed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import Run
from pipeline.metrics import Metrics, MultiLabelMetrics

if TYPE_CHECKING:
    import mlflow

TEST_FIGURES = {
    Metrics: ("top1", "top5", "loss", "macro_precision", "macro_recall", "macro_f1", "ece"),
    MultiLabelMetrics: ("mean_ap", "loss", "exact_match", "micro_precision", "micro_recall", "micro_f1", "macro_f1"),
}


def version_tags(run: Run, metrics: Metrics | MultiLabelMetrics) -> dict[str, str]:
    """The tags by which a version says what it was made of and how good it is."""
    return {
        "weights_sha256": metrics.weights_sha256,
        "index_digest": metrics.index_digest,
        "fingerprint": run.fingerprint,
        "run_id": run.run_id or "",
        "backbone": run.backbone,
        metrics.score_name: repr(metrics.score),
        "num_test_samples": str(metrics.num_samples),
    }


def find_run(client: "mlflow.MlflowClient", run_id: str | None) -> str | None:
    """`run_id` when the store has that run, else None: it was logged elsewhere, deleted, or never published."""
    import mlflow.exceptions

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as exc:
        if exc.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id if run.info.lifecycle_stage == "active" else None


def complete_run(
    client: "mlflow.MlflowClient",
    run_id: str,
    model_id: str,
    step: int,
    metrics: Metrics | MultiLabelMetrics,
    files: Sequence[Path],
) -> None:
    """Adds the test figures and the files (folders with all that is in them) to the run. Again gives the same."""
    from mlflow.entities import Metric

    # The run's own time: MLflow's tables take the same key, step, time and value once.
    timestamp = client.get_run(run_id).info.start_time
    figures = [
        Metric(f"test/{name}", getattr(metrics, name), timestamp, step, model_id=model_id, run_id=run_id)
        for name in TEST_FIGURES[type(metrics)]
    ]
    client.log_batch(run_id, metrics=figures)
    for path in files:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        elif path.exists():
            client.log_artifact(run_id, str(path))

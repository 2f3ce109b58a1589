"""What joins a registered version to its images, parameters, code and run: tags on the version, the run completed."""

import time
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

    run, of_model = client.get_run(run_id), client.get_logged_model(model_id).metrics or ()
    figures = {f"test/{name}": getattr(metrics, name) for name in TEST_FIGURES[type(metrics)]}
    shown, named = run.data.metrics, {each.key for each in of_model}
    # Of figures at one step and time MLflow shows the largest: those that take the place of others have to be later.
    is_corrected = any(shown.get(key, value) != value for key, value in figures.items())
    time_ms = max(round(time.time() * 1000), run.info.start_time + 1) if is_corrected else run.info.start_time
    new = [
        Metric(key, value, time_ms, step, model_id=model_id, run_id=run_id)
        for key, value in figures.items()
        if shown.get(key) != value or key not in named
    ]
    client.log_batch(run_id, metrics=new)
    for path in files:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        elif path.exists():
            client.log_artifact(run_id, str(path))

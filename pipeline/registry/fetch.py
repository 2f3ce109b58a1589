"""An exported model out of MLflow: the folder that was registered under an address, verified."""

import shutil
import tempfile
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.registry import export

SCHEMES = ("models:/", "runs:/")


def fetch(uri: str, address: str, folder: Path) -> str:
    """The sha256 of the weights at `models:/name/3`, `models:/name@alias` or `runs:/id/model` of the store at `uri`.

    The export then lies in `folder/<sha256>`. Raises what MLflow raises, ModelError for a model that is not of ours and
    ArtifactError for one that is damaged.
    """
    import mlflow
    import mlflow.artifacts

    # The repositories of models open the global addresses (mlflow/store/artifact/models_artifact_repo.py).
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        whole = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=scratch))
        weights = next(whole.rglob(export.WEIGHTS), None)
        if weights is None or not weights.with_name(export.CONFIG).exists():
            raise ModelError(
                f"{address} holds no model that Convoy exported; name one that `convoy register` has registered."
            )
        sha256 = export.verify(weights.parent).weights_sha256
        if not (folder / sha256).exists():
            shutil.move(weights.parent, folder / sha256)
    return sha256

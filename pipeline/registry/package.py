"""An exported model as an MLflow model: the code that serves it, its requirements, its signature, an example."""

import importlib.metadata
import io
import shutil
import tempfile
from pathlib import Path

import numpy as np

import pipeline
from pipeline.errors import ArtifactError
from pipeline.imaging import arrays, channels
from pipeline.registry import export
from pipeline.registry.classify import Classifier

REQUIREMENTS = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "safetensors",
    "simplejpeg",
    "timm",
    "torch",
    "torchvision",
)
"""What the served modules import; pinned to what is installed. An explicit list: MLflow's own guess is the whole
training stack."""

SERVED_MODULES = (
    "__init__.py",
    "artifacts.py",
    "errors.py",
    "imaging",
    "networks",
    "registry/__init__.py",
    "registry/classify.py",
    "registry/export.py",
)
"""What of this package travels with the model; nothing that was compiled for this machine."""


def log(folder: Path, name: str, run_id: str | None) -> str:
    """Logs the exported model in `folder` to the store and experiment that are set; gives its `models:/m-...` URI.

    Takes its place on the page of the run, if there is one. Raises what MLflow raises.
    """
    import mlflow.models
    import mlflow.pyfunc

    facts = export.read_facts(folder)
    with tempfile.TemporaryDirectory() as scratch:
        # Not `pyfunc.log_model`: it links to the active run only, and to open a finished run again changes its end.
        info = mlflow.models.Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=name,
            python_model=str(Path(__file__).with_name("served_labels.py" if facts.multi_label else "served.py")),
            artifacts={"model": str(folder)},
            code_paths=[str(_copy_served_modules(Path(scratch)))],
            pip_requirements=[f"{each}=={_public_version(each)}" for each in REQUIREMENTS],
            input_example=[_example(facts)],
            run_id=run_id,
            tags={"weights_sha256": facts.weights_sha256, "backbone": facts.backbone},
        )
    return info.model_uri


def check(model_uri: str, folder: Path) -> None:
    """Raises ArtifactError when a logged model, fetched back, does not answer as the export in `folder` does.

    MLflow itself only warns when a model that it has just logged cannot be loaded.
    """
    import mlflow.pyfunc

    example = _example(export.read_facts(folder))
    expected = next(Classifier(folder).classify([example]))
    answer = mlflow.pyfunc.load_model(model_uri).predict([example])[0]
    if answer.error or not _agree(answer.probabilities, expected.probabilities):
        raise ArtifactError(
            f"{model_uri}, fetched back from the store, answers {answer}, {folder} answers {expected}; "
            "it was damaged on the way: run `convoy register` again."
        )


def _agree(found: dict[str, float], expected: dict[str, float]) -> bool:
    return found.keys() == expected.keys() and all(abs(found[name] - expected[name]) <= 1e-6 for name in expected)


def _copy_served_modules(scratch: Path) -> Path:
    source, target = Path(pipeline.__file__).parent, scratch / "pipeline"
    for name in SERVED_MODULES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.so")
            shutil.copytree(source / name, target / name, ignore=ignored)
        else:
            shutil.copyfile(source / name, target / name)
    return target


def _public_version(distribution: str) -> str:
    """Without the local part (`+cu130`), which no public registry can install."""
    return importlib.metadata.version(distribution).partition("+")[0]


def _example(facts: export.Facts) -> bytes:
    """A grey ramp as JPEG, or as an array for other channels: a request that anybody can repeat."""
    from PIL import Image

    side_px, wanted = facts.input_px, channels.Channels(facts.num_channels, facts.pixel_dtype)
    ramp_HW = np.linspace(0, np.iinfo(wanted.dtype).max, side_px * side_px).reshape(side_px, side_px)
    ramp_HW = ramp_HW.astype(wanted.dtype)
    if wanted != channels.RGB:
        return arrays.encode_array(np.repeat(ramp_HW[:, :, None], wanted.number, axis=2))
    buffer = io.BytesIO()
    Image.fromarray(ramp_HW).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()

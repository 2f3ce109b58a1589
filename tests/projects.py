"""Folders that the pipeline can run in: this repository's definition of it, with params of the test's own."""

import shutil
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]

SMALL = {
    "data": {"source": "demo"},
    "demo": {"images_per_class": 60, "seed": 0},
    "split": {"validation_fraction": 0.2, "test_fraction": 0.2, "seed": 0},
    "loading": {"global_batch_size": 16, "lanes": 1},
    "model": {"backbone": "test_resnet", "weights": "none", "input_px": 64},
    "training": {"epochs": 1, "precision": "fp32"},
    "registry": {"model_name": "convoy-demo", "min_top1": 0.0},
    "cluster": {"address": None, "num_workers": 0, "storage": None},
    "tracking": {"uri": None},
}
"""What makes the demo a job of seconds, whatever params.yaml says; it learns next to nothing in them."""


def write(folder: Path, *changes: dict[str, dict]) -> Path:
    """The folder, made, with params.yaml changed section by section; the later changes win."""
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", "requirements.lock", ".gitignore"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    for change in changes:
        for section, values in change.items():
            params[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


def write_for_a_job(folder: Path, storage: Path, *changes: dict[str, dict]) -> Path:
    """The same with the code beside it, as a Ray job takes both along; its outputs go to `storage`, outside."""
    write(folder, SMALL, {"cluster": {"num_workers": 1, "storage": str(storage)}}, *changes)
    shutil.copytree(REPOSITORY / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    return folder

"""DVC's queue for real: two experiments in temporary copies, one MLflow, and a workspace that nothing happened to."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import projects
import pytest
import yaml

from pipeline.artifacts import Run

LRS = ("0.001", "0.002")


def run(folder: Path, command: str) -> str:
    """A command of this environment, in the folder."""
    first, *rest = command.split()
    program = [sys.executable, "-m", "pipeline" if first == "convoy" else first] if first != "git" else ["git"]
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}
    done = subprocess.run([*program, *rest], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, str]:
    """What a person would miss: params, the lock, and what the stages left, by their bytes."""
    files = [folder / "params.yaml", folder / "dvc.lock", *(folder / "data").rglob("*")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file() and not path.name.endswith(".lock.lock")
    }


@pytest.fixture
def project(tmp_path) -> Path:
    folder = projects.write(tmp_path / "project", projects.SMALL, {"demo": {"images_per_class": 40}})
    shutil.copyfile(projects.REPOSITORY / ".dvc/.gitignore", folder / ".dvc/.gitignore")
    run(folder, "git init -q")
    for name, value in (("user.name", "n"), ("user.email", "e@f"), ("commit.gpgsign", "false")):
        run(folder, f"git config {name} {value}")
    run(folder, "convoy repro")
    run(folder, "git add .")
    run(folder, "git commit -qm first")
    return folder


def experiments(folder: Path) -> dict[str, dict]:
    """What `dvc exp show` lists but for the workspace and the commit, by name."""
    shown = json.loads(run(folder, "dvc exp show --json"))
    found = [revision for row in shown for each in row["experiments"] or [] for revision in each["revs"]]
    return {revision["name"]: revision["data"] for revision in found}


@pytest.mark.long_fault
def test_two_queued_experiments_leave_the_workspace_alone(project):
    before = contents(project)
    run(project, "dvc exp run --queue -S optimizer.lr=0.001,0.002")
    assert contents(project) == before
    run(project, "dvc exp run --run-all")
    assert contents(project) == before
    assert run(project, "git status --porcelain") == ""

    found = experiments(project)
    lrs = {name: str(data["params"]["params.yaml"]["data"]["optimizer"]["lr"]) for name, data in found.items()}
    assert sorted(lrs.values()) == list(LRS)
    top1s = {name: data["metrics"]["data/report/metrics.json"]["data"]["top1"] for name, data in found.items()}
    assert all(0.0 <= top1 <= 1.0 for top1 in top1s.values())

    from pipeline.tracking import store

    client = store.connect(f"sqlite:///{project / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'convoy'")
    pages = client.search_runs([experiment.experiment_id], "tags.`dvc.experiment` != ''")
    assert {page.data.tags["dvc.experiment"]: page.data.params["optimizer.lr"] for page in pages} == lrs
    assert {page.info.status for page in pages} == {"FINISHED"}
    assert all((project / "runs" / page.info.run_name / "result.json").exists() for page in pages)
    assert experiment.artifact_location == (project / "mlruns").as_uri()

    name, lr = next(iter(lrs.items()))
    run(project, f"dvc exp apply {name}")
    assert str(yaml.safe_load((project / "params.yaml").read_text())["optimizer"]["lr"]) == lr
    applied = Run.read(project / "data" / "run.json", made_by="train")
    (page,) = [page for page in pages if page.data.tags["dvc.experiment"] == name]
    assert (applied.fingerprint, applied.run_id) == (page.info.run_name, page.info.run_id)
    said = run(project, "dvc repro")
    assert "Stage 'train' didn't change, skipping" in said

"""The lines that send the whole pipeline to a Ray head, with a real head on this machine, as the README has them."""

import json
import os
import subprocess

import projects
import pytest
import ray_head

START = "infra/ray/head.sh"
EXPORT = "export RAY_AUTH_MODE=token"
SUBMIT = "ray job submit --working-dir . -- python -m pipeline repro"


@pytest.fixture
def environment(tmp_path):
    """A person's shell, with a home of its own."""
    return os.environ | {"HOME": str(tmp_path)}


@pytest.fixture
def sent_project(tmp_path):
    """A checkout whose outputs go to a folder outside it, with a tar in it that must stay at home."""
    folder = projects.write_for_a_job(tmp_path / "project", tmp_path / "storage")
    (folder / "data" / "shards").mkdir(parents=True)
    (folder / "data" / "shards" / "big.tar").write_bytes(bytes(1000))
    return folder


@pytest.mark.slow
def test_the_whole_pipeline_runs_as_a_ray_job(environment, sent_project, tmp_path):
    with ray_head.started(START, environment) as (address, ray_folder):
        run_as_a_job(environment, address, ray_folder, sent_project, tmp_path)


def run_as_a_job(environment, address, ray_folder, sent_project, tmp_path):
    environment = environment | {"RAY_API_SERVER_ADDRESS": address}
    without_token = subprocess.run(SUBMIT.split(), cwd=sent_project, env=environment, capture_output=True, text=True)
    assert without_token.returncode == 1
    assert "token authentication is enabled" in without_token.stderr

    environment |= [EXPORT.removeprefix("export ").split("=")]
    done = subprocess.run(SUBMIT.split(), cwd=sent_project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    storage = tmp_path / "storage"
    registration = json.loads((storage / "data" / "registration.json").read_text(encoding="utf-8"))
    assert registration["alias"] == "champion"
    assert registration["tracking_uri"] == f"sqlite:///{storage}/mlflow.db"
    assert (storage / "data" / "report" / "report.html").exists()
    run = json.loads((storage / "data" / "run.json").read_text(encoding="utf-8"))
    assert (storage / "runs" / run["fingerprint"]).is_dir()

    (travelled,) = [path.parent for path in ray_folder.glob("session_2*/runtime_resources/**/dvc.yaml")]
    assert not list(travelled.rglob("*.tar"))

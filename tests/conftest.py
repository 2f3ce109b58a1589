"""The environment of every test: no network, no colours, no settings of the person who runs it, fixed examples."""

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import projects
import pytest

os.environ.update(
    COLUMNS="120",
    HF_HUB_OFFLINE="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    RAY_ENABLE_UV_RUN_RUNTIME_ENV="0",
    RAY_USAGE_STATS_ENABLED="0",
    # `python` in dvc.yaml is the one that runs the tests
    PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
)
for name in ("FORCE_COLOR", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(name, None)

hypothesis.settings.register_profile("convoy", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("convoy")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root; read it, never write there."""
    return projects.REPOSITORY


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory) -> Path:
    """A project folder in which `convoy repro` has run on a small demo set. Shared: run in it only what leaves it
    as it is."""
    folder = projects.write(tmp_path_factory.mktemp("finished") / "project", projects.SMALL)
    done = subprocess.run([sys.executable, "-m", "pipeline", "repro"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(autouse=True)
def _same_environment():
    """What a test, or a library in it, leaves in the environment is gone before the next: mlflow.set_tracking_uri
    writes there, and stages read there."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)

"""Every command in a fenced `sh` block of README.md and docs/ is in one of the two tables here, and is run."""

import re
import subprocess
import sys

import projects
import pytest
import yaml

from pipeline import params
from pipeline.__main__ import app

RUN_HERE = {
    "convoy predict data/raw/demo/X/00000.jpg": "data/raw/demo/X/00000.jpg",
    "convoy doctor": "what to do",
    "convoy plan": "memory of a rank",
    "convoy scan": "120 images of 2 classes",
    "convoy verify": "120 samples in 3 shards",
    "convoy order --split train --epoch 3 --world-size 4 --rank 1 --from-step 1 --steps 2": '"epoch": 3, "step": 1, ',
    "convoy browse": "data/contact_sheet.html: 16 samples of 2 of 2 classes",
    "convoy browse --output data/contact_sheet.png": "data/contact_sheet.png: 16 samples of 2 of 2 classes",
    "convoy train": "validation top-1",
    "convoy find-lr --steps 10": "learning rate",
    "convoy tune-batch --largest 32": "Try loading.global_batch_size: ",
    "convoy scout test_resnet convoynet test_vit --samples 60": "the best first",
    "convoy ledger": "steps committed",
    "convoy track sync": "nothing waits",
    "convoy register": "version 1 is champion",
}
"""Command, and what it says in a finished project."""

UI = "tests/docs/test_servers.py::test_mlflow_ui_shows_the_run"
SERVE = "tests/docs/test_servers.py::test_mlflow_serves_the_champion"
RAY_JOB = "tests/docs/test_ray_job.py::test_the_whole_pipeline_runs_as_a_ray_job"
MAKE = "tests/docs/test_make.py::test_a_target_runs_what_the_readme_says"

COMPACT = "tests/end_to_end/test_growing_pushes_little.py::test_what_dvc_brings_back_grows_and_can_be_compacted"

QUEUE = "tests/end_to_end/test_dvc_queue.py::test_two_queued_experiments_leave_the_workspace_alone"

TESTED_BY = {
    "dvc exp run --queue -S optimizer.lr=0.001,0.002": QUEUE,
    "dvc exp run --run-all": QUEUE,
    "dvc exp show": QUEUE,
    "convoy compact": COMPACT,
    "make repro": MAKE,
    "make test": MAKE,
    ". .venv/bin/activate": "tests/docs/test_make.py::test_the_environment_can_be_activated",
    ".venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db": UI,
    "mlflow ui --backend-store-uri sqlite:///mlflow.db": UI,
    "mlflow models serve --model-uri models:/convoy-demo@champion --env-manager local --port 5001": SERVE,
    "infra/ray/head.sh": RAY_JOB,
    "export RAY_AUTH_MODE=token": RAY_JOB,
    "ray job submit --working-dir . -- python -m pipeline repro": RAY_JOB,
}
"""Command, and the test that runs it."""


COMMANDS = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}

FILE_ENDINGS = {"safetensors", "json"}


def pages(repository):
    return [
        repository / "README.md",
        *sorted((repository / "docs").glob("*.md")),
        *(repository / name / "README.md" for name in ("data", "infra")),
    ]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of all `sh` blocks that are no comments."""
    lines = [line.strip() for block in blocks(text, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_commands_are_found():
    text = "```sh\nmake repro\n# a comment\n\nmake test\n```\nwords\n```yaml\na: 1\n```\n```sh\nls\n```\n"
    assert commands(text) == ["make repro", "make test", "ls"]


def test_every_command_is_run_by_a_test(repository):
    found = {command for page in pages(repository) for command in commands(page.read_text(encoding="utf-8"))}
    assert found == RUN_HERE.keys() | TESTED_BY.keys()


@pytest.mark.parametrize("command", TESTED_BY)
def test_the_test_that_is_named_exists_and_runs_the_command(repository, command):
    path, _, function = TESTED_BY[command].partition("::")
    source = (repository / path).read_text(encoding="utf-8")
    assert f"\ndef {function}(" in source
    words = command.removeprefix(".venv/bin/").removeprefix("make ")
    assert f'"{words}' in source


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN_HERE)
def test_a_command_does_what_the_page_says(finished_project, command):
    done = subprocess.run(["bash", "-c", command], cwd=finished_project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert RUN_HERE[command] in done.stdout


@pytest.mark.parametrize("name", [None, *sorted(COMMANDS)])
def test_every_command_has_help(repository, name):
    command = [sys.executable, "-m", "pipeline", *([name] if name else []), "--help"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")


def test_the_readme_lists_every_command(repository):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `convoy ([\w-]+)(?: [A-Z. ]+)?`", readme, re.MULTILINE)) == COMMANDS


def test_the_two_lines_for_ones_own_images_are_params(repository, tmp_path):
    (two_lines,) = blocks((repository / "README.md").read_text(encoding="utf-8"), "yaml")
    changes = yaml.safe_load(two_lines)
    folder = projects.write(tmp_path / "project", changes)
    read = params.read(folder / "params.yaml")
    assert read["data"].source == changes["data"]["source"]
    assert read["registry"].model_name == changes["registry"]["model_name"]


@pytest.mark.slow
def test_timm_opens_the_exported_model(repository, finished_project, monkeypatch):
    import timm

    (line,) = blocks((repository / "docs" / "training.md").read_text(encoding="utf-8"), "python")
    monkeypatch.chdir(finished_project)
    model = eval(line, {"timm": timm})
    assert model.num_classes == 2


def test_every_link_leads_somewhere(repository):
    for page in pages(repository):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme(repository):
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/{page.name})" in readme for page in (repository / "docs").glob("*.md"))


def test_every_parameter_that_a_page_names_exists(repository):
    sections = params.Params.model_fields
    for page in pages(repository):
        for section, key in re.findall(r"`(?:<)?(\w+)\.(\w+)[`>:]", page.read_text(encoding="utf-8")):
            if section in sections and key not in FILE_ENDINGS:
                assert key in sections[section].annotation.model_fields, f"{page.name}: {section}.{key}"

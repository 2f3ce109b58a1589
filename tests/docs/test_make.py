"""The Makefile: what its targets run, told by make itself; and the table of them in the README."""

import re
import subprocess

import pytest

TARGETS = {
    "repro": "-m pipeline repro",
    "test": "-m pytest",
    "lint": "-m ruff check .",
    "faults": "-m pytest tests/faults",
    "bench": "benchmarks/*.py",
    "setup": "uv pip sync",
    "lock": "uv pip compile",
}


def make(repository, *arguments) -> str:
    """What make would run from a fresh clone, where nothing is installed."""
    command = ["make", "--dry-run", "--always-make", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_what_the_readme_says(repository, target):
    assert TARGETS[target] in make(repository, target)


@pytest.mark.parametrize("target", ["repro", "test", "lint", "faults", "bench", "setup"])
def test_a_target_sets_everything_up_first(repository, target):
    steps = make(repository, target)
    places = [
        steps.index(step) for step in ("-m venv .venv", "--require-hashes --no-deps", "uv pip sync", "--editable .")
    ]
    assert places == sorted(places)
    if target != "setup":
        assert places[-1] < steps.rindex(TARGETS[target])


def test_faults_runs_every_test_that_test_leaves_out(repository):
    """A long one that lay elsewhere would be run by nobody."""
    (command,) = [line for line in make(repository, "faults").splitlines() if TARGETS["faults"] in line]
    run = [repository / word for word in command.split() if word.startswith("tests/")]
    files = (repository / "tests").rglob("test_*.py")
    marked = [path for path in files if re.search(r"pytest\.mark\.long_fault", path.read_text(encoding="utf-8"))]
    assert marked
    assert [path for path in marked if not any(path.is_relative_to(each) for each in run)] == []


def test_uv_comes_with_hashes_from_the_lock(repository):
    recipe = re.search(r"^\t@(awk .*) > .venv/uv.lock$", (repository / "Makefile").read_text(encoding="utf-8"), re.M)
    command = recipe[1].replace("$$", "$").replace("$<", "requirements.lock")
    command += "" if command.endswith(".lock") else " requirements.lock"
    entry = subprocess.run(["bash", "-c", command], cwd=repository, capture_output=True, text=True, check=True).stdout
    assert re.match(r"uv==[\d.]+ \\\n", entry)
    assert entry.count("==") == 1
    assert entry.count("--hash=sha256:") > 1


def test_help_lists_the_readmes_targets(repository):
    listed = subprocess.run(["make"], cwd=repository, capture_output=True, text=True, check=True).stdout
    readme = (repository / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^  make (\w+)", listed, re.M)) - {"help"} == set(
        re.findall(r"^\| `make (\w+)`", readme, re.M)
    )


def test_the_environment_can_be_activated(repository):
    command = ". .venv/bin/activate && command -v convoy dvc mlflow ray python"
    done = subprocess.run(["bash", "-c", command], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{repository}/.venv/bin/{name}" for name in ("convoy", "dvc", "mlflow", "ray", "python")
    ]


def test_the_checks_of_every_commit_are_lint_and_test(repository):
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = script.read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]

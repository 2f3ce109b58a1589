"""A small project with its shards, to copy from, and what training in it gives when nothing goes wrong."""

import json
import os
import shutil
from pathlib import Path

import fault_table
import projects
import pytest
import shard_sets
import train_commands

TINY = {
    "training": {"epochs": 3, "ledger": "full", "checkpoint_every_seconds": 1e-6, "keep_checkpoints": 3},
    "model": {"input_px": 32, "drop_rate": 0.3},
    "loading": {"global_batch_size": 8, "lanes": 1, "workers_per_rank": 1},
}


@pytest.fixture(scope="session")
def sharded(tmp_path_factory) -> Path:
    """A project's shards: five steps an epoch. Link to them; do not write there."""
    return shard_sets.write(
        tmp_path_factory.mktemp("sharded"), {"train": [20, 23], "validation": [7], "test": [5]}
    ).parent


@pytest.fixture
def project(sharded, tmp_path):
    """Makes a copy of the project with other params, section by section."""

    def make(**changes: dict) -> Path:
        return copy_of(sharded, tmp_path / "project", changes)

    return make


def copy_of(sharded: Path, folder: Path, changes: dict[str, dict]) -> Path:
    projects.write(folder, projects.SMALL, TINY, changes)
    shutil.copytree(sharded, folder / "data" / "shards", copy_function=_link_or_copy)
    return folder


def _link_or_copy(source: str, target: str) -> None:
    """Shards are never written to again; a test may rewrite the index."""
    (os.link if source.endswith(".tar") else shutil.copyfile)(source, target)


@pytest.fixture(scope="session")
def undisturbed(sharded, tmp_path_factory) -> Path:
    """The run's folder after a training that nothing disturbed, in one process."""
    return _trained(copy_of(sharded, tmp_path_factory.mktemp("undisturbed") / "project", {}))


@pytest.fixture(scope="session")
def undisturbed_by_two(sharded, tmp_path_factory) -> Path:
    """The same, trained by two ranks."""
    changes = {"cluster": {"num_workers": 2}}
    return _trained(copy_of(sharded, tmp_path_factory.mktemp("undisturbed") / "project", changes))


def _trained(folder: Path) -> Path:
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    return train_commands.the_run(folder)


@pytest.fixture(autouse=True)
def _cost(request, record_property):
    """What a fault cost the run that met it, for the table: seconds until a step ended again, steps done again."""
    folder = request.getfixturevalue("tmp_path") if "project" in request.fixturenames else None
    yield
    if folder is None:
        return
    seconds = [float(path.read_text()) for path in folder.rglob("*.recovered")]
    if seconds:
        record_property(fault_table.SECONDS, max(seconds))
        record_property(fault_table.STEPS, sum(map(_redone, folder.glob("*/runs/*/ledger"))))


def _redone(ledger: Path) -> int:
    """Steps that rank 0 did more than once."""
    steps = [
        json.loads(line)["step"] for path in ledger.glob("*-rank-00000.jsonl") for line in path.read_text().splitlines()
    ]
    return len(steps) - len(set(steps))

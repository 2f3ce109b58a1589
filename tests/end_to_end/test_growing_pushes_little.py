"""What growing costs: one image more in a hundred, and what `dvc push` then sends, by real commands."""

import os
import subprocess
import sys
from pathlib import Path

import projects
import pytest
from image_folders import fill, jpeg

NUM_IMAGES = 1000
SIDE_PX = 64


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def photos(folder: Path, numbers: range) -> None:
    fill(folder / "photos", {f"{'ab'[n % 2]}/{n}.jpg": jpeg(n, SIDE_PX, SIDE_PX) for n in numbers})


def shard_and_push(folder: Path) -> None:
    run(folder, "dvc", "repro", "shard")
    run(folder, "dvc", "push", "--remote", "backup", "shard")


def bytes_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(tmp_path) -> Path:
    folder = projects.write(
        tmp_path / "project",
        {"data": {"source": "photos"}, "shards": {"samples_per_shard": 100, "short_side_px": None, "num_workers": 1}},
    )
    run(folder, "dvc", "config", "--local", "core.no_scm", "true")
    run(folder, "dvc", "remote", "add", "--local", "backup", str(tmp_path / "remote"))
    return folder


def test_one_image_more_in_a_hundred_sends_little_and_leaves_the_old_tars(project, tmp_path):
    photos(project, range(NUM_IMAGES))
    shard_and_push(project)
    shards = project / "data/shards"
    tars = {path: path.read_bytes() for path in shards.glob("*/*.tar")}
    sent = bytes_of(tmp_path / "remote")

    photos(project, range(NUM_IMAGES, NUM_IMAGES + NUM_IMAGES // 100))
    shard_and_push(project)
    num_old = sum(map(len, tars.values()))
    num_unchanged = sum(len(data) for path, data in tars.items() if path.exists() and path.read_bytes() == data)
    again = bytes_of(tmp_path / "remote")
    num_sent = sum(size for name, size in again.items() if name not in sent)
    print(f"{num_old:,} bytes of tars, {num_unchanged / num_old:.2%} unchanged; {num_sent:,} bytes sent after them")
    assert num_unchanged == num_old
    assert sent.items() <= again.items()
    assert num_sent < 0.02 * num_old


def test_what_dvc_brings_back_grows_and_can_be_compacted(project, tmp_path):
    photos(project, range(100))
    shard_and_push(project)
    shards = project / "data/shards"
    tars = {path.name: path.read_bytes() for path in shards.glob("*/*.tar")}
    for folder in (shards, project / ".dvc/cache"):
        subprocess.run(["rm", "-r", str(folder)], check=True)
    run(project, "dvc", "pull", "--remote", "backup", "shard")
    photos(project, range(100, 103))
    (project / "photos/a/4.jpg").unlink()
    assert "generation 1: 3 samples written" in run(project, "dvc", "repro", "shard")
    assert tars.items() <= {path.name: path.read_bytes() for path in shards.glob("*/*.tar")}.items()
    assert "didn't change, skipping" in run(project, "dvc", "repro", "shard")

    done = subprocess.run(["bash", "-c", "convoy compact"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 tombstone of ")
    compacted = {path.name: path.read_bytes() for path in shards.glob("*/*.tar")}
    run(project, "dvc", "repro", "shard")
    assert {path.name: path.read_bytes() for path in shards.glob("*/*.tar")} == compacted
    assert "didn't change, skipping" in run(project, "dvc", "repro", "shard")

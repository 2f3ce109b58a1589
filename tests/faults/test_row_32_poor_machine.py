"""Row 32: few file descriptors, no HOME, the C locale, a path with spaces, nothing to write to, 64 MB of /dev/shm."""

import subprocess
import sys

import projects
import pytest
import shard_sets

READ_ALL = """
import sys
from pathlib import Path
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
reader = SplitReader(Path(sys.argv[1]), "train")
steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=20)
plain = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0)
made = training_batches(reader, steps, plain, input_px=8, rank=0, world_size=1, first_step=0, num_workers=4)
print(len({key for batch in made for key in batch.keys_B.tolist()}))
"""


def test_more_shards_than_descriptors_on_a_poor_machine(tmp_path, repository):
    folder = tmp_path / "my photos é"
    index_path = shard_sets.write(folder, {"train": [1] * 300})
    before = sorted(folder.rglob("*"))
    command = f'ulimit -n 256; cd /; exec "{sys.executable}" -B -c "$1" "$2"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", READ_ALL, index_path],
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "300\n"
    assert sorted(folder.rglob("*")) == before


POOR = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(projects.REPOSITORY)}


def run_in(folder, preparation, commands):
    """The exit code and what was said of each, up to the first that fails, where mounts are the shell's own."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounts of a process's own cannot be made here")
    said = []
    for command in commands:
        line = f'cd "$1" && {preparation} && cd "$1" && exec "{sys.executable}" -m pipeline {command}'
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", line, "bash", folder], env=POOR, capture_output=True, text=True
        )
        said.append((done.returncode, done.stderr))
        if done.returncode:
            break
    return said


@pytest.mark.slow
def test_all_stages_and_ray_on_a_poor_machine(tmp_path):
    folder = projects.write(tmp_path / "my photos é", projects.SMALL, {"cluster": {"num_workers": 1}})
    poor = "mount -t tmpfs -o size=64m tmpfs /dev/shm && ulimit -n 256"
    said = run_in(folder, poor, ["scan", "shard", "train", "evaluate", "register"])
    assert [code for code, _ in said] == [0] * 5, said[-1][1]
    assert (folder / "data" / "registration.json").exists()


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("scan", "data cannot be written (Read-only file system); make it writable and run this again."),
        ("repro", ".dvc (ERROR: unexpected error - [Errno 30] Read-only file system"),
    ],
)
def test_a_read_only_folder_is_named(tmp_path, command, wanted):
    folder = projects.write(tmp_path / "my photos é", projects.SMALL)
    read_only = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    [(code, said)] = run_in(folder, read_only, [command])
    assert code == 1, said
    assert len(said.splitlines()) == 1
    assert wanted in said

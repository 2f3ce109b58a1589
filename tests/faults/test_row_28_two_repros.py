"""Row 28: two `dvc repro` at once, in one PID namespace and in two: one trains, the other exits naming the holder.

DVC's own lock goes by process ids, which mean nothing in another namespace; the stage's lock is the kernel's.
"""

import os
import subprocess
import sys
from pathlib import Path

import projects
import pytest
import train_commands
from train_commands import wait_until

ENTER = ["unshare", "--pid", "--fork", "--mount-proc"]


def repro(folder, *before):
    command = [*before, sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "train"]
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}
    with open(folder / f"dvc-{len(before)}.txt", "wb") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


@pytest.mark.long_fault
def test_the_second_is_refused_and_the_first_goes_on(project):
    if subprocess.run([*ENTER, "true"], capture_output=True).returncode:
        pytest.skip("a PID namespace of one's own is not allowed here")
    folder = project(training={"epochs": 400, "checkpoint_every_seconds": 1e6})
    subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], cwd=folder, check=True)
    first = repro(folder)
    try:
        wait_until(lambda: list(folder.glob("runs/*/ledger/attempt-0001-*")), "the first step")
        holder = int((folder / "data" / ".model.lock").read_text().split()[1])
        plain = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "--single-item", "train"],
            cwd=folder, env=os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}, capture_output=True, text=True,
        )  # fmt: skip
        assert plain.returncode != 0
        assert f"(PID {first.pid}): " in plain.stdout + plain.stderr
        foreign = repro(folder, *ENTER)
        assert foreign.wait(train_commands.PATIENCE_SECONDS) != 0
        assert f"is being written by process {holder} on " in (folder / f"dvc-{len(ENTER)}.txt").read_text()
        assert first.poll() is None
        assert len(list(folder.glob("runs/*/ledger/*"))) == 1
    finally:
        first.terminate()
        first.wait()
        wait_until(lambda: not Path(f"/proc/{holder}").exists(), "the end of the stage")

"""Row 6: Ctrl-C, on a run and on a sweep, SIGTERM to `dvc repro` alone, `ray job stop`; then at once the same command:
never two writers, no stale lock."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import projects
import pytest
import ray_head
import train_commands
from train_commands import Fault, wait_until

from pipeline.training import checkpoint

LONG = {"epochs": 400, "checkpoint_every_seconds": 1e6}
"""More than a test waits for."""


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.long_fault)])
def test_ctrl_c_leaves_a_checkpoint_and_a_second_one_ends_at_once(undisturbed, project, num_workers):
    folder = project(training={"checkpoint_every_seconds": 1e6}, cluster={"num_workers": num_workers})
    stopped = train_commands.train(folder, Fault("interrupt driver", step=6))
    assert stopped.exit_code == 128 + signal.SIGINT, stopped.said
    run = train_commands.the_run(folder)
    assert checkpoint.positions(run / "checkpoints")[0] == 7

    twice = train_commands.train(folder, Fault("interrupt driver", step=7), Fault("interrupt driver", step=7))
    assert twice.exit_code == 128 + signal.SIGINT, twice.said
    # A rank in another process may come to its checkpoint before it is ended.
    assert checkpoint.positions(run / "checkpoints")[0] in {7, 7 + num_workers}

    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed, folder)


def repro(folder, shell="/bin/bash"):
    """DVC starts a stage through $SHELL."""
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "train"]
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY), "SHELL": shell}
    with open(folder / "dvc.txt", "ab") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def stage_of(folder):
    """The process that holds the stage's lock."""
    return int((folder / "data" / ".model.lock").read_text().split()[1])


def steps_of(folder, attempt):
    paths = (folder / "runs").glob(f"*/ledger/attempt-{attempt:04d}-rank-00000.jsonl")
    return [json.loads(line)["step"] for path in paths for line in path.read_text().splitlines()]


def end_dvc_alone(folder, dvc, attempt):
    """SIGTERM to dvc once the stage has trained a step; the position of the checkpoint that the stage leaves."""
    wait_until(lambda: steps_of(folder, attempt), "the first step")
    stage = stage_of(folder)
    dvc.terminate()
    dvc.wait()
    return stage


@pytest.mark.long_fault
def test_the_stage_ends_with_its_dvc_and_the_same_command_goes_on_at_once(project):
    folder = project(training=LONG)
    subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], cwd=folder, check=True)
    one = end_dvc_alone(folder, repro(folder, "/bin/sh"), attempt=1)  # stays beside the stage where it is dash
    other = end_dvc_alone(folder, repro(folder), attempt=2)
    assert one != other
    wait_until(lambda: not Path(f"/proc/{other}").exists(), "the end of the stage")
    said = (folder / "dvc.txt").read_text()
    assert said.count("stopping after the next step, with a checkpoint") == 2
    first, second = steps_of(folder, 1), steps_of(folder, 2)
    assert second[0] == first[-1] + 1
    assert checkpoint.positions(train_commands.the_run(folder) / "checkpoints")[0] == second[-1] + 1


def sweep(folder):
    command = [sys.executable, "-m", "pipeline", "sweep", "space.yaml", "--trials", "2"]
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}
    with open(folder / "sweep.txt", "ab") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)


def pages_of(folder):
    """Status of the sweep's page in MLflow, and of its trials'; the sweep's id."""
    pages = {page.info.run_name == "sweep": page for page in train_commands.mlflow_runs(folder)}
    statuses = [page.info.status for page in train_commands.mlflow_runs(folder) if page.info.run_name != "sweep"]
    return pages[True].info.status, statuses, pages[True].info.run_id


@pytest.mark.long_fault
@pytest.mark.timeout(4 * train_commands.PATIENCE_SECONDS)
def test_an_interrupted_sweep_is_over_and_the_same_sweep_goes_on_at_once(project):
    folder = project(training={"epochs": 60, "checkpoint_every_seconds": 1e6})
    (folder / "space.yaml").write_text("optimizer.lr: {log: [0.0001, 0.1]}\n")
    interrupted = sweep(folder)
    wait_until(lambda: max(steps_of(folder, 1), default=0) > 10, "the second checkpoint of a trial")
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does
    assert interrupted.wait(train_commands.PATIENCE_SECONDS) == 128 + signal.SIGINT, (folder / "sweep.txt").read_text()
    status, trials, page = pages_of(folder)
    assert (status, "RUNNING" in trials, (folder / "data" / "sweep").exists()) == ("KILLED", False, False)

    assert sweep(folder).wait(2 * train_commands.PATIENCE_SECONDS) == 0, (folder / "sweep.txt").read_text()
    status, trials, same_page = pages_of(folder)
    assert (status, same_page, len(trials)) == ("FINISHED", page, 2)
    assert "FINISHED" in trials
    ledgers = folder.glob("runs/*/ledger/attempt-0002-rank-00000.jsonl")
    begun = [json.loads(line)["step"] for ledger in ledgers for line in ledger.read_text().splitlines()[:1]]
    assert max(begun) >= 10, "from a checkpoint"


STEPS_PER_EPOCH = 4


@pytest.mark.long_fault
def test_a_stopped_ray_job_is_over_and_the_same_job_goes_on_at_once(tmp_path):
    storage = tmp_path / "storage"
    sent = projects.write_for_a_job(tmp_path / "project", storage, {"training": LONG})  # 72 images in batches of 16
    person = os.environ | {"HOME": str(tmp_path)}
    with ray_head.started("infra/ray/head.sh", person) as (address, _):
        person |= {"RAY_API_SERVER_ADDRESS": address, "RAY_AUTH_MODE": "token"}

        def ray_job(*arguments):
            done = subprocess.run(["ray", "job", *arguments], cwd=sent, env=person, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        def send(name):
            command = ["--working-dir", ".", "--", "python", "-m", "pipeline", "repro"]
            ray_job("submit", "--no-wait", "--submission-id", name, *command)

        send("one")
        wait_until(lambda: len(steps_of(storage, 1)) > 2 * STEPS_PER_EPOCH, "the third epoch")
        one = stage_of(storage)
        ray_job("stop", "one")
        send("other")
        wait_until(lambda: steps_of(storage, 2), "the first step of the second job")
        assert not Path(f"/proc/{one}").exists()
        other = stage_of(storage)
        ray_job("stop", "other")
        assert ["was stopped" in ray_job("status", name) for name in ("one", "other")] == [True, True]
        wait_until(lambda: not Path(f"/proc/{other}").exists(), "the end of the stage")
    first, second = steps_of(storage, 1), steps_of(storage, 2)
    assert 2 * STEPS_PER_EPOCH <= second[0] <= first[-1] + 1, "from a checkpoint: of an epoch's end, or of the stop"
    assert first[-1] + 1 - second[0] <= STEPS_PER_EPOCH
    (page,) = train_commands.mlflow_runs(storage)
    assert page.info.run_name == train_commands.the_run(storage).name

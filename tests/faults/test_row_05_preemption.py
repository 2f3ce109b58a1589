"""Row 5: SIGTERM, as a preemption sends it: a checkpoint at the next step, then the end; the same command resumes.
A node that is drained with a deadline: a checkpoint at the next step, and on elsewhere, no restart spent."""

import signal

import pytest
import ray_nodes
import train_commands
from train_commands import PATIENCE_SECONDS, Fault


@pytest.mark.parametrize("num_workers", [0, 1])
def test_sigterm_leaves_a_checkpoint_of_the_next_step(undisturbed, project, num_workers):
    folder = project(training={"checkpoint_every_seconds": 1e6}, cluster={"num_workers": num_workers})
    stopped = train_commands.train(folder, Fault("terminate driver", step=6))
    assert stopped.exit_code == 128 + signal.SIGTERM, stopped.said
    assert "stopping after the next step, with a checkpoint" in stopped.said
    run = train_commands.the_run(folder)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000000005", "step-000000007"]
    assert [entry.info.status for entry in train_commands.mlflow_runs(folder)] == ["KILLED"]

    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed, folder)
    train_commands.published_once(folder, attempts=2)


@pytest.mark.long_fault
@pytest.mark.timeout(5 * PATIENCE_SECONDS)
def test_a_node_that_announces_its_end_costs_no_restart_and_no_step(project, undisturbed_by_two):
    with ray_nodes.nodes(3) as cluster:
        folder = project(
            cluster={"num_workers": 2, "address": cluster.address, "max_failures": 0},
            training={"checkpoint_every_seconds": 1e6},
        )
        done = train_commands.Command(folder, Fault("announce loss", step=6, rank=1)).wait(2 * PATIENCE_SECONDS)
    assert done.exit_code == 0, done.said
    assert done.said.count("is being taken away; going on from the newest checkpoint") == 1
    run = train_commands.the_run(folder)
    lines = [path.read_text().count("\n") for path in sorted((run / "ledger").glob("*-rank-00000.jsonl"))]
    assert len(lines) == 2
    assert sum(lines) == len(train_commands.history(run))
    train_commands.ended_as(undisturbed_by_two, folder)

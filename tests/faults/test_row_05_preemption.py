"""Row 5: SIGTERM, as a preemption sends it: a checkpoint at the next step, then the end; the same command resumes."""

import signal

import train_commands
from train_commands import Fault


def test_sigterm_leaves_a_checkpoint_of_the_next_step(undisturbed, project):
    folder = project(training={"checkpoint_every_seconds": 1e6})
    stopped = train_commands.train(folder, Fault("terminate driver", step=6))
    assert stopped.exit_code == 128 + signal.SIGTERM, stopped.said
    assert "stopping after the next step, with a checkpoint" in stopped.said
    run = train_commands.the_run(folder)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000000005", "step-000000007"]
    assert [entry.info.status for entry in train_commands.mlflow_runs(folder)] == ["KILLED"]

    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    assert train_commands.history(run) == train_commands.history(undisturbed)
    assert train_commands.same_weights(run, undisturbed)
    (page,) = train_commands.mlflow_runs(folder)
    assert (page.info.status, page.data.tags["attempts"]) == ("FINISHED", "2")

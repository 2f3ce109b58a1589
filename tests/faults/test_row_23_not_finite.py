"""Row 23: a loss that is not finite stops the run; the last finite checkpoint stays, nothing is left to register."""

import train_commands
from train_commands import Fault

from pipeline.training import checkpoint


def test_the_stage_names_step_rate_and_samples(project):
    folder = project(optimizer={"lr": 1e30}, schedule={"warmup_fraction": 0.4})
    done = train_commands.train(folder)
    assert done.exit_code == 1
    assert (
        "error: The weights are not finite after step 0, with a learning rate of 1.67e+29, on the samples " in done.said
    )
    assert "Traceback" not in done.said
    run = train_commands.the_run(folder)
    assert checkpoint.positions(run / "checkpoints") == []
    assert not (folder / "data" / "model").exists()
    assert [page.info.status for page in train_commands.mlflow_runs(folder)] == ["FAILED"]


def test_the_last_finite_checkpoint_stays_and_training_goes_on_from_it(undisturbed, project):
    folder = project()
    spoilt = train_commands.train(folder, Fault("spoil weights", step=6))
    assert spoilt.exit_code == 1
    assert "error: The weights are not finite after step 6, with a learning rate of " in spoilt.said
    run = train_commands.the_run(folder)
    assert checkpoint.positions(run / "checkpoints")[0] == 6
    assert not (folder / "data" / "model").exists()

    assert train_commands.train(folder).exit_code == 0
    train_commands.ended_as(undisturbed, folder)
    train_commands.published_once(folder, attempts=2)

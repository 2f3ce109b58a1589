"""Row 11: a disk that is full when a checkpoint is due, and a kill while one is written: the stage fails clearly or
dies, and goes on from the one before. Every crash point of a save is in tests/training/test_checkpoint.py."""

import train_commands
from train_commands import Fault

from pipeline.training import checkpoint


def test_half_a_checkpoint_is_never_loaded_and_is_removed_later(undisturbed, project):
    folder = project()
    killed = train_commands.train(folder, Fault("kill while saving", step=8))
    assert killed.exit_code == -9
    run = train_commands.the_run(folder)
    assert checkpoint.positions(run / "checkpoints")[0] == 8
    (half,) = (run / "checkpoints").glob(".step-*.partial")
    assert not (half / "commit.json").exists()
    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    assert "damaged" not in resumed.said
    assert not list((run / "checkpoints").glob(".*"))
    train_commands.ended_as(undisturbed, folder)


def test_a_full_disk_ends_the_stage_with_the_way_on(undisturbed, project):
    folder = project()
    failed = train_commands.train(folder, Fault("full disk", step=8))
    assert failed.exit_code == 1
    run = train_commands.the_run(folder)
    assert f"error: The checkpoint of step 9 cannot be written to {run / 'checkpoints'} (No space left" in failed.said
    assert "Traceback" not in failed.said
    assert checkpoint.positions(run / "checkpoints")[0] == 8
    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed, folder)

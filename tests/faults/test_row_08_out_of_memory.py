"""Row 8: a rank meets a memory limit. The message names it and the cause; once costs a restart, twice running ends the
run before its restarts are spent, with the way on."""

import pytest
import train_commands
from train_commands import Fault


def test_a_single_process_says_what_it_lacked(undisturbed, project):
    folder = project()
    failed = train_commands.train(folder, Fault("out of memory", step=7))
    assert failed.exit_code == 1, failed.said
    assert "error: Rank 0 ran out of memory (" in failed.said
    assert "raise training.accumulate_steps, lower model.input_px, use more ranks" in failed.said
    assert "Traceback" not in failed.said
    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed, folder)


@pytest.mark.long_fault
def test_once_is_a_restart_and_twice_running_is_the_end(project, undisturbed_by_two):
    folder = project(cluster={"num_workers": 2})
    short = [Fault("out of memory", step=7, rank=1)]
    failed = train_commands.train(folder, *short, *short)
    assert failed.exit_code == 1, failed.said
    assert failed.said.count("going on from the newest checkpoint, restart 1 of 3") == 1
    assert "error: Rank 1 ran out of memory (" in failed.said
    assert "it was so the last time too" in failed.said
    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed_by_two, folder)

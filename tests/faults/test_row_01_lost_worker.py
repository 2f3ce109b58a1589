"""Row 1: a train worker is killed at the first, a middle and the last step; each loss costs at most the steps since the
newest checkpoint, and nothing of it shows in the end."""

import pytest
import train_commands
from train_commands import Fault

TWO_RANKS = {"cluster": {"num_workers": 2}}


@pytest.mark.long_fault
def test_the_ledger_and_the_weights_are_those_of_an_undisturbed_run(project, undisturbed_by_two):
    folder = project(**TWO_RANKS)
    kills = [Fault("kill", step=0, rank=1), Fault("kill", step=7, rank=0), Fault("kill", step=14, rank=1)]
    done = train_commands.train(folder, *kills)
    assert done.exit_code == 0, done.said
    assert done.said.count("going on from the newest checkpoint") == 3
    run = train_commands.the_run(folder)
    page = train_commands.published_once(folder)
    assert sorted(train_commands.metric_steps(folder, page.info.run_id, "train/loss")) == list(range(1, 16))

    train_commands.ended_as(undisturbed_by_two, folder)
    # A checkpoint every step: at most the step that was lost and one whose checkpoint was being written, each time.
    assert redone(run) <= 6


def redone(run):
    """Steps that were recorded more than once."""
    lines = [path.read_text().count("\n") for path in (run / "ledger").glob("*-rank-00000.jsonl")]
    return sum(lines) - len(train_commands.history(run))

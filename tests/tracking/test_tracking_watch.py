"""What the person at the terminal sees of a run: a live line where there is a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from pipeline.tracking.spool import Spool
from pipeline.tracking.watch import Watch


@pytest.fixture
def watch(tmp_path):
    """A watch of ten steps in five epochs, and what it prints."""

    def start(patience_epochs, *, is_terminal=False):
        terminal = io.StringIO()
        console = Console(file=terminal, width=200, force_terminal=is_terminal)
        files = {"spool": tmp_path / "spool", "notices": tmp_path / "notices"}
        sizes = {"num_steps": 10, "num_epochs": 5, "patience_epochs": patience_epochs}
        made = Watch(**files, **sizes, committed=lambda: 0, on_committed=lambda step: None, console=console)
        return made, terminal

    return start


def figures(without_gain):
    return {"val/top1": 0.5, "val/loss": 1.0, "val/epochs_without_gain": without_gain}


def test_epochs_without_gain_are_told_where_they_count(watch, tmp_path):
    for patience_epochs in (2, None):
        seen, terminal = watch(patience_epochs)
        with seen:
            Spool(tmp_path / "spool").append(4, figures(1), epoch=2)
        assert "epoch 2/5 step 4/10 | " in terminal.getvalue()
        assert ("| 1 of 2 epochs without gain" in terminal.getvalue()) == (patience_epochs == 2)


def test_the_live_line_ends_where_patience_does(watch, tmp_path):
    seen, _ = watch(2, is_terminal=True)
    with seen:
        spool = Spool(tmp_path / "spool")
        spool.append(4, figures(1), epoch=2)
        seen._look()
        (task,) = seen._progress.tasks
        assert (task.completed, task.total) == (4, 10)
        spool.append(6, figures(2), epoch=3)
        seen._look()
        assert (task.completed, task.total, task.finished) == (6, 6, True)


def test_an_epoch_that_was_done_again_is_told_once(watch, tmp_path):
    seen, terminal = watch(None)
    with seen:
        spool = Spool(tmp_path / "spool")
        for step in (3, 4):
            spool.append(step, {"train/loss": 1.0}, epoch=2)
        spool.append(4, figures(0), epoch=2)
        spool.append(4, {"train/loss": 1.0}, epoch=2)
        spool.append(4, figures(0), epoch=2)
    assert terminal.getvalue().count("epoch 2/5 step 4/10 | ") == 1

"""What the person at the terminal sees of a run: a live line where there is a terminal, plain lines elsewhere."""

import io
import re
import time

import pytest
from rich.console import Console

from pipeline.tracking.spool import CHUNK_BYTES, Spool, truncate_after
from pipeline.tracking.watch import Watch


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """A watch of ten steps in five epochs, unless told otherwise, and what it prints."""
    monkeypatch.setenv("TERM", "xterm")

    def start(
        patience_epochs,
        *,
        is_terminal=False,
        width=200,
        has_validation=True,
        num_steps=10,
        num_epochs=5,
        clock=time.monotonic,
    ):
        terminal = io.StringIO()
        console = Console(file=terminal, width=width, force_terminal=is_terminal, color_system=None, get_time=clock)
        made = Watch(
            tmp_path / "spool",
            tmp_path / "notices",
            num_steps=num_steps,
            num_epochs=num_epochs,
            patience_epochs=patience_epochs,
            has_validation=has_validation,
            committed=lambda: 0,
            on_committed=lambda step: None,
            console=console,
        )
        return made, terminal

    return start


@pytest.fixture
def append(tmp_path, monkeypatch):
    """Appends a line with a stated time to the spool of a run with epochs of two steps, unless told otherwise."""

    def append(seconds, step, metrics, *, steps_per_epoch=2):
        spool = Spool(tmp_path / "spool")
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: seconds)
            spool.append(step, metrics, epoch=(step - 1) // steps_per_epoch + 1)
        spool.close()

    return append


def figures(without_gain):
    return {"val/top1": 0.5, "val/loss": 1.0, "val/epochs_without_gain": without_gain}


def trained(loss, wait=0.0):
    return {"train/loss": loss, "train/images_per_second": 1234.4, "loader/wait_fraction": wait}


def live_lines(terminal):
    """As they were drawn, one after the other."""
    drawn = re.split(r"[\r\n]|\x1b\[\d*[A-Za-z]|\x1b\[\?25[lh]", terminal.getvalue())
    return [text.rstrip() for text in drawn if text.strip() and not text.startswith("epoch ")]


def test_an_epoch_is_a_plain_line_with_its_validation(watch, append):
    seen, terminal = watch(None)
    with seen:
        append(1000.0, 1, trained(1.5))
        append(1010.0, 2, trained(1.25, wait=0.07))
        append(1014.0, 2, figures(0))
        append(1014.5, 2, {"loader/epoch_compute_bound_fraction": 0.9})
        append(1020.0, 9, trained(0.75))
        append(1030.0, 10, trained(0.5))
        append(1034.0, 10, figures(0))
    assert terminal.getvalue().splitlines() == [
        "epoch 1/5 step 2/10 | loss 1.2500 | 1,234 img/s | validation top-1 0.5000 loss 1.0000 | wait 7 % | 2 min left",
        "epoch 5/5 step 10/10 | loss 0.5000 | 1,234 img/s | validation top-1 0.5000 loss 1.0000",
    ]


def test_without_a_validation_split_an_epoch_is_told_at_its_last_step(watch, append):
    seen, terminal = watch(None, has_validation=False)
    with seen:
        for step in range(1, 5):
            append(1000.0 + 2 * step, step, trained(1.0 / step))
            if step % 2 == 0:
                append(1001.0 + 2 * step, step, {"loader/epoch_compute_bound_fraction": 1.0})
    assert terminal.getvalue().splitlines() == [
        "epoch 1/5 step 2/10 | loss 0.5000 | 1,234 img/s | 16 s left",
        "epoch 2/5 step 4/10 | loss 0.2500 | 1,234 img/s | 9 s left",
    ]


def test_a_long_epoch_says_something_every_minute(watch, append):
    seen, terminal = watch(None, num_steps=100, num_epochs=1)
    with seen:
        for step, seconds in ((10, 0.0), (20, 59.9), (30, 60.0), (40, 100.0), (50, 119.9), (60, 180.0)):
            append(1000.0 + seconds, step, trained(1.0, wait=0.03), steps_per_epoch=100)
    assert terminal.getvalue().splitlines() == [
        "epoch 1/1 step 30/100 | loss 1.0000 | 1,234 img/s | wait 3 % | 4 min left",
        "epoch 1/1 step 60/100 | loss 1.0000 | 1,234 img/s | wait 3 % | 2 min left",
    ]


def test_an_epochs_line_counts_as_saying_something(watch, append):
    seen, terminal = watch(None, num_steps=200, num_epochs=2)
    with seen:
        append(1000.0, 90, trained(1.0), steps_per_epoch=100)
        append(1060.0, 100, trained(1.0), steps_per_epoch=100)
        append(1061.0, 100, figures(0), steps_per_epoch=100)
        append(1120.0, 110, trained(1.0), steps_per_epoch=100)
        append(1122.0, 120, trained(1.0), steps_per_epoch=100)
    first, second = terminal.getvalue().splitlines()
    assert first.startswith("epoch 1/2 step 100/200 | loss 1.0000 | 1,234 img/s | validation top-1 0.5000 ")
    assert second.startswith("epoch 2/2 step 120/200")


def test_on_a_terminal_the_live_line_tells_of_a_long_epoch_alone(watch, append):
    seen, terminal = watch(None, is_terminal=True, num_steps=100, num_epochs=1)
    with seen:
        for step in (10, 20):
            append(100.0 * step, step, trained(1.0), steps_per_epoch=100)
    assert "epoch " not in terminal.getvalue()
    assert "step 20/100  loss 1.0000" in terminal.getvalue()


def test_a_resumed_run_tells_its_epochs_again_and_takes_no_pace_from_them(watch, append):
    append(1000.0, 1, trained(1.0))
    append(1001.0, 2, trained(1.0))
    append(1002.0, 2, figures(0))
    append(1102.0, 3, trained(1.0))
    seen, terminal = watch(None)
    with seen:
        append(90_000.0, 4, trained(1.0))
        append(90_000.5, 4, figures(0))
        append(90_004.5, 5, trained(1.0))
        append(90_008.5, 6, trained(1.0))
        append(90_008.5625, 6, figures(0))
    validated = "loss 1.0000 | 1,234 img/s | validation top-1 0.5000 loss 1.0000"
    assert terminal.getvalue().splitlines() == [
        f"epoch 1/5 step 2/10 | {validated}",
        f"epoch 2/5 step 4/10 | {validated}",
        f"epoch 3/5 step 6/10 | {validated} | 16 s left",
    ]


def test_a_spool_that_is_read_in_pieces_is_an_earlier_attempts_to_its_end(watch, append):
    append(1000.0, 1, trained(1.0) | {"x" * CHUNK_BYTES: 0.0}, steps_per_epoch=100)
    append(1100.0, 2, trained(1.0), steps_per_epoch=100)
    seen, terminal = watch(None, num_steps=100, num_epochs=1)
    for _ in range(3):
        seen._look()
    assert seen._shown == (2, False)
    assert not terminal.getvalue()


def test_a_restart_does_not_stretch_the_time_left(watch, append, tmp_path):
    seen, terminal = watch(None, has_validation=False)
    for step in range(1, 5):
        append(1000.0 + step, step, trained(1.0))
    seen._look()
    truncate_after(tmp_path / "spool", 2)
    for step in range(3, 7):
        append(5000.0 + 5 * step, step, trained(1.0))
    seen._look()
    assert terminal.getvalue().splitlines()[-1] == "epoch 3/5 step 6/10 | loss 1.0000 | 1,234 img/s | 20 s left"
    assert terminal.getvalue().count("epoch 2/5 step 4/10 | ") == 1


@pytest.mark.parametrize(
    ("width", "beside"),
    [(80, r"[-\\|/] {}"), (120, r"[-\\|/] {}"), (121, ".{{20}} {} 0:00:0."), (140, ".{{20}} {} 0:00:0.")],
)
def test_the_live_line_fits_its_terminal(watch, append, width, beside):
    seen, terminal = watch(None, is_terminal=True, width=width, num_steps=4410, num_epochs=90)
    with seen:
        append(1000.0, 48, trained(1.25), steps_per_epoch=49)
        append(1001.0, 49, trained(1.25), steps_per_epoch=49)
        append(1001.5, 49, figures(0), steps_per_epoch=49)
        append(1049.5, 96, trained(1.125, wait=0.12), steps_per_epoch=49)
    told = "step 96/4410  loss 1.1250  top-1 0.500  1,234 img/s  wait 12 %  1.2 h left"
    assert re.fullmatch(beside.format(re.escape(told)), live_lines(terminal)[-1])
    assert max(map(len, live_lines(terminal))) <= width


@pytest.mark.parametrize("width", [80, 121])
def test_the_live_line_of_a_long_run_is_cut_nowhere(watch, append, width):
    now = [0.0]
    sizes = {"num_steps": 450_000, "num_epochs": 90}
    seen, terminal = watch(2, is_terminal=True, width=width, clock=lambda: now[0], **sizes)
    with seen:
        now[0] = 10 * 86_400.0 + 36_000.0
        append(1000.0, 147_000, trained(1.25) | figures(0), steps_per_epoch=5000)
        append(1001.0, 147_001, trained(1.25, wait=0.12), steps_per_epoch=5000)
    told = "147001/450000  loss 1.2500  top-1 0.500  1,234 img/s  wait 12 %  84.2 h at most"
    if width == 80:
        assert live_lines(terminal)[-1][2:] == told.replace("  wait 12 %", "")
    else:
        assert live_lines(terminal)[-1][20:] == f" {told} 10 days, 10:00:00"
    assert max(map(len, live_lines(terminal))) <= width


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


def test_no_time_is_left_once_patience_is_out(watch, append):
    seen, terminal = watch(2)
    with seen:
        append(1000.0, 2, trained(1.0) | figures(0))
        append(1010.0, 4, figures(1))
        append(1020.0, 6, figures(2))
    assert [line.split(" | ")[-1] for line in terminal.getvalue().splitlines()] == [
        "0 of 2 epochs without gain",
        "30 s left at most",
        "2 of 2 epochs without gain",
    ]


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

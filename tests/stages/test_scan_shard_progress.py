import io
import itertools
import sys

import pytest

from pipeline.stages import progress as progress_module
from pipeline.stages.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by two seconds each time it is read."""
    ticks = itertools.count(0, 2)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(ticks))


@pytest.mark.usefixtures("clock")
def test_without_a_terminal_a_line_every_few_seconds(capsys):
    with progress("encoding", 1000) as advance:
        for _ in range(6):
            advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 150 of 1,000 images, 25/s, 34 s left",
        "encoding: 300 of 1,000 images, 25/s, 28 s left",
    ]


@pytest.mark.usefixtures("clock")
def test_a_total_that_nobody_knows(capsys):
    with progress("scanning", unit="files") as advance:
        for _ in range(3):
            advance(2000)
    assert capsys.readouterr().err == "scanning: 6,000 files, 1,000/s\n"


@pytest.mark.usefixtures("clock")
def test_nothing_done_yet_has_no_time_left(capsys):
    with progress("encoding", 10) as advance:
        for _ in range(3):
            advance(0)
    assert capsys.readouterr().err == "encoding: 0 images, 0/s\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress("hashing", 10) as advance:
        advance(10)
    assert "hashing" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()
    assert "images/s" in terminal.getvalue()

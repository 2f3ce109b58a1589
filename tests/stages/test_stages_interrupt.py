"""Who asks a training to end, how often that counts, and what `convoy repro` makes of a signal: real signals."""

import os
import signal
import subprocess
import sys

import projects
import pytest
from train_commands import wait_until

from pipeline.stages import repro as repro_stage
from pipeline.stages.interrupt import PARENT_GONE, stopping_gently


@pytest.fixture
def stop_file(tmp_path):
    return tmp_path / "stop"


def send(signum):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, PARENT_GONE])
def test_the_first_wish_asks_and_whatever_a_person_sends_then_ends(stop_file, first):
    said = []
    with stopping_gently(stop_file, said.append) as stop:
        assert not stop.is_asked()
        send(first)
        assert stop.is_asked()
        assert stop_file.exists()
        assert said == ["stopping after the next step, with a checkpoint; the same again ends it at once"]
        with pytest.raises(SystemExit) as ended:
            send(signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, PARENT_GONE])
def test_that_dvc_goes_too_is_no_second_wish(stop_file, first):
    with stopping_gently(stop_file, lambda text: None) as stop:
        send(first)
        send(PARENT_GONE)
        assert stop.heard == [first]
        with pytest.raises(SystemExit) as ended:
            stop.end_if_asked()
    assert ended.value.code == 128 + (signal.SIGINT if first == signal.SIGINT else signal.SIGTERM)


STAGE = """
import pathlib, signal, sys, threading
heard = threading.Event()
signal.signal(signal.SIGINT, lambda *_: heard.set())
pathlib.Path("begun").touch()
while not heard.wait(0.05): pass
threading.Event().wait(1.0)  # as long as a checkpoint takes, and longer than subprocess.run waits
pathlib.Path("saved").touch()
sys.exit(7)
"""

REPRO = """
import os, pathlib, sys
from pipeline import __main__
from pipeline.stages import repro
__main__._run_stage = lambda name: repro._run([sys.executable, "-c", pathlib.Path("stage.py").read_text()],
                                              pathlib.Path.cwd(), dict(os.environ))
sys.argv = ["convoy", "repro"]
__main__.main()
"""


@pytest.fixture
def repro(tmp_path):
    """`convoy repro` in a session of its own, with a dvc that takes its time to end after Ctrl-C."""
    (tmp_path / "stage.py").write_text(STAGE)
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", REPRO], cwd=tmp_path, env=environment, start_new_session=True)
    wait_until((tmp_path / "begun").exists, "the start of the stage")
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(("of_dvc", "code"), [(0, 0), (255, 1), (2, 2)])
def test_what_a_stage_could_not_do_is_exit_code_1(tmp_path, of_dvc, code):
    command = [sys.executable, "-c", f"raise SystemExit({of_dvc})"]
    assert repro_stage._run(command, tmp_path, dict(os.environ)) == code


def test_what_was_said_before_dvc_stands_before_it_in_a_file(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from pipeline.stages import repro\n"
        "print('first')\n"
        "repro._run([sys.executable, '-c', 'print(\\'dvc\\')'], pathlib.Path.cwd(), dict(os.environ))\n"
        "print('last')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY), "PYTHONUNBUFFERED": ""}
    with (tmp_path / "said.txt").open("wb") as said:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=said, check=True)
    assert (tmp_path / "said.txt").read_text().split() == ["first", "dvc", "last"]


def test_ctrl_c_leaves_dvc_and_its_stage_the_time_they_need(repro, tmp_path):
    os.killpg(repro.pid, signal.SIGINT)
    assert repro.wait(60) == 128 + signal.SIGINT
    assert (tmp_path / "saved").exists()


def test_sigterm_to_repro_alone_ends_dvc_as_well(repro, tmp_path):
    repro.send_signal(signal.SIGTERM)
    assert repro.wait(60) == 128 + signal.SIGTERM
    assert not (tmp_path / "saved").exists()


def test_two_interrupts_of_repro_alone_end_dvc_as_well(repro, tmp_path):
    repro.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        repro.wait(1.0)
    repro.send_signal(signal.SIGINT)
    assert repro.wait(60) == 128 + signal.SIGINT
    assert not (tmp_path / "saved").exists()

"""The command line answers at once: help loads none of the frameworks. A GPU waits for no more than it needs."""

import os
import statistics
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "lightning", "ray", "mlflow", "dvc", "pyarrow", "cv2", "matplotlib"}
MAX_HELP_SECONDS = 0.5

RUN_AND_LIST_MODULES = """
import runpy, sys
sys.argv = ["convoy", *sys.argv[1:]]
try:
    runpy.run_module("pipeline", run_name="__main__")
except SystemExit as exit:
    assert not exit.code, exit.code
print("loaded:", *sorted(sys.modules))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["doctor", "--help"], ["scan", "--help"], ["train", "--help"]])
def test_help_loads_no_framework(repository, arguments):
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_MODULES, *arguments], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "pipeline" in loaded
    assert not HEAVY & loaded


def test_help_comes_in_under_half_a_second(repository):
    seconds = [_cpu_seconds([sys.executable, "-m", "pipeline", "--help"], repository) for _ in range(6)]
    assert statistics.median(seconds[1:]) < MAX_HELP_SECONDS, seconds


def test_the_process_that_loads_for_a_gpu_needs_neither_timm_nor_lightning(repository):
    code = "import sys, pipeline.loading.apart, pipeline.training.feed; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == {"torch", "cv2"}


def _cpu_seconds(command, folder) -> float:
    """Processor time of the command, which unlike the clock does not count what else this machine is doing."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime

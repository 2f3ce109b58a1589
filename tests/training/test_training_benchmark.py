"""The benchmark itself, on a network of a few thousand weights."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_it_measures_one_process_and_two_workers_beside_loops_by_hand(repository):
    command = [sys.executable, "benchmarks/training.py", "--repeats", "1", "--steps", "12", "--backbone", "test_resnet"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    rates = {name: value for name, value in measured.items() if name.endswith("_images_per_second")}
    assert len(rates) == 6
    assert min(rates.values()) > 0
    assert {"ours_over_by_hand", "two_over_one_ours", "two_over_one_by_hand"} <= measured.keys()

"""The benchmark itself, on a small network."""

import json
import subprocess
import sys


def test_it_measures_a_write_and_a_stall(repository):
    command = [sys.executable, "benchmarks/checkpoints.py", "--backbone", "test_resnet", "--repeats", "2"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    for name in ("written", "stall", "first_stall"):
        assert measured[f"{name}_seconds"] > 0
        assert measured[f"{name}_cpu_seconds"] >= 0

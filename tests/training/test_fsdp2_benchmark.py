"""The benchmark itself, on a network of a few thousand weights."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_it_measures_what_ranks_hold(repository):
    command = [sys.executable, "benchmarks/fsdp2.py", "--backbone", "test_resnet", "--input-px", "32", "--steps", "1"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert results["fsdp2"]["held_mb"] < 0.6 * results["ddp"]["held_mb"]
    assert min(value for each in results.values() for value in each.values()) > 0

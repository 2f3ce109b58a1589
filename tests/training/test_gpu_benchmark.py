"""The benchmark of a GPU: a line where there is none, figures where there is one."""

import json
import os
import subprocess
import sys

import pytest
import torch


def run(repository, *arguments, **settings):
    command = [sys.executable, "benchmarks/gpu.py", *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_a_gpu_it_says_so(repository):
    assert run(repository, CUDA_VISIBLE_DEVICES="") == {"benchmark": "gpu", "gpu": None}


def test_too_few_steps_are_refused(repository):
    command = [sys.executable, "benchmarks/gpu.py", "--steps", "9"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--steps 9: losses are looked at 10 times, so give 10 or more" in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_measures_both_loops_and_the_loader(repository):
    small = ["--backbone", "test_resnet", "--batch", "16", "--steps", "20", "--repeats", "1", "--threads", "1", "2"]
    measured = run(repository, *small)
    assert measured["ours_over_by_hand"] > 0
    assert measured["ours_deterministic_images_per_second"] > 0
    assert set(measured["loader_images_per_second_by_threads"]) == {"1", "2"}
    assert sum(measured["parts_of_the_time"].values()) == pytest.approx(1.0, abs=0.01)

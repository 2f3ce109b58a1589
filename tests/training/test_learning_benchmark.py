"""The benchmark of what is learnt, on a few drawn images; the peer's hundred epochs are left out."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest


@pytest.mark.slow
def test_it_trains_the_recipe_and_says_what_came_of_it(repository, tmp_path):
    generator = np.random.default_rng(0)
    for split, count in {"train": 150, "test": 10}.items():
        for name, level in {"dark": 60, "light": 190}.items():
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(level - 50, level + 50, (16, 16, 3), np.uint8)
                cv2.imwrite(str(tmp_path / "images" / split / name / f"{number}.png"), image)
    images = ["--images", tmp_path / "images", "--work", tmp_path]
    short = ["--epochs", "2", "--set", "training.progressive_px=null", "--no-peer"]
    command = [sys.executable, "benchmarks/learning.py", *images, *short]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    quick = json.loads(done.stdout)["results"]["quick"]
    assert quick["epochs"] == 2
    assert 0.0 <= quick["test_top1"] <= 1.0
    assert quick["train_seconds"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["images"]

"""The benchmark of transfer on a few drawn images: the whole way, in miniature."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest


@pytest.mark.slow
def test_it_pretrains_and_compares(repository, tmp_path):
    generator = np.random.default_rng(0)
    for split, count in {"train": 80, "test": 4}.items():
        for name, level in {"a": 50, "b": 100, "c": 150, "d": 200}.items():
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                image = generator.integers(level - 50, level + 50, (16, 16, 3), np.uint8)
                cv2.imwrite(str(tmp_path / "images" / split / name / f"{number}.png"), image)
    sizes = ["--epochs", "1", "--seeds", "1", "--pretraining-images-per-class", "80", "--pretraining-epochs", "1"]
    command = [sys.executable, "benchmarks/transfer.py", "--images", tmp_path / "images", *sizes, "--work", tmp_path]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["new_classes"] == ["c", "d"]
    won = 100 * (said["test_top1"]["transferred"][0] - said["test_top1"]["from_scratch"][0])
    assert said["points_won"] == pytest.approx(won, abs=1e-6)
    assert {(row["backbone"], row["weights"]) for row in said["scouted"]} == {
        ("convoynet", "none"),
        ("resnet18", "none"),
        ("convoynet", "weights.safetensors"),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["images"]

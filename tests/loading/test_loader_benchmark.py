"""The benchmark itself, on drawn photographs and without peers."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "ours", "peers"),
    [
        (
            "256 px",
            {"convoy", "convoy_long_side_256", "convoy_decoded_long_side_256"},
            ("ffcv_long_side_256", "ffcv_raw_long_side_256", "dali", "webdataset"),
        ),
        ("32 px", {"convoy", "convoy_decoded"}, ("ffcv_small", "ffcv_raw_small")),
    ],
)
def test_it_measures_this_loader_and_names_the_peers_that_are_missing(repository, tmp_path, name, ours, peers):
    command = [sys.executable, "benchmarks/loader.py", "--images", "128", "--repeats", "1", "--sets", name]
    done = subprocess.run([*command, "--work", tmp_path], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["sets"][name]
    assert measured["images_per_second"].keys() == ours
    assert min(measured["images_per_second"].values()) > 0
    assert measured["missing"] == dict.fromkeys(peers, "no --peers-python")
    assert measured["ratios"] == {}
    assert not list(tmp_path.iterdir())

"""The benchmark itself, on drawn photographs and without peers."""

import json
import subprocess
import sys


def test_it_measures_this_loader_and_names_the_peers_that_are_missing(repository, tmp_path):
    command = [sys.executable, "benchmarks/loader.py", "--images", "128", "--repeats", "1", "--sets", "256 px"]
    done = subprocess.run([*command, "--work", tmp_path], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["sets"]["256 px"]
    assert measured["images_per_second"].keys() == {
        "convoy",
        "convoy_long_side_256",
        "convoy_decoded_long_side_256",
    }
    assert min(measured["images_per_second"].values()) > 0
    peers = ("ffcv_long_side_256", "ffcv_raw_long_side_256", "dali", "webdataset")
    assert measured["missing"] == dict.fromkeys(peers, "no --peers-python")
    assert measured["ratios"] == {}
    assert not list(tmp_path.iterdir())

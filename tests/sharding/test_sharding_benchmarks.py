"""The benchmarks of sharding run and print what docs/performance.md quotes; a few images suffice for that."""

import json
import subprocess
import sys
import tarfile

import pytest
from image_folders import build, two_classes
from projects import REPOSITORY

from pipeline.artifacts import SPLITS


def run(*arguments: object) -> dict:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sharding_beside_tar_says_that_a_peer_is_missing(tmp_path):
    result = run("benchmarks/sharding.py", "--images", 40, "--repeats", 1, "--work", tmp_path)
    assert set(result["images_per_second"]) == {"original bytes", "256 px", "192 px", "tar", "tar and fsync"}
    assert set(result["ratios"]) == {"original bytes / tar", "original bytes / tar and fsync"}
    assert result["missing"] == {"ffcv": "no --peers-python"}
    assert all(rate > 0 for rate in result["images_per_second"].values())


def test_many_images_are_scanned_and_sharded(tmp_path):
    result = run("benchmarks/many_images.py", "--counts", 200, "--work", tmp_path)
    assert set(result["results"]) == {"scan 200", "scan and shard 200"}
    assert all(figures["seconds"] > 0 and figures["peak_mb"] > 50 for figures in result["results"].values())


def test_long_tables_are_scanned(tmp_path):
    result = run("benchmarks/tables.py", "--rows", 1500, "--work", tmp_path)
    assert {kind: figures["records"] for kind, figures in result["results"].items()} == dict.fromkeys(
        ("csv", "tsv", "parquet", "jsonl"), 1500
    )
    assert all(figures["cpu_seconds"] > 0 for figures in result["results"].values())


@pytest.mark.parametrize("kind", [[], ["--channels", 5]], ids=["pictures", "arrays"])
def test_ray_data_and_webdataset_read_what_the_index_says(kind):
    result = run("benchmarks/readers.py", "--readers", "ray_data", "webdataset", *kind)
    equal = dict.fromkeys(SPLITS, "equal")
    assert result["results"] == {"ray_data": equal, "webdataset": equal}


def test_a_reader_that_finds_other_labels_is_reported(tmp_path):
    build(two_classes(tmp_path / "source", 20), tmp_path / "shards")
    tar_path = next((tmp_path / "shards/train").glob("*.tar"))
    with tarfile.open(tar_path) as tar:
        place = next(member.offset_data for member in tar if member.name.endswith(".cls"))
    content = bytearray(tar_path.read_bytes())
    content[place] ^= 1  # the other one of two classes
    tar_path.write_bytes(content)
    found = run("benchmarks/readers.py", "--readers", "webdataset", "--shards", tmp_path / "shards")["results"]
    assert found["webdataset"]["train"].endswith("samples, 1 differ")
    assert found["webdataset"]["test"] == "equal"

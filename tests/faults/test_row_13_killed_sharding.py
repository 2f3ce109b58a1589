"""Row 13: SIGKILL the sharding at random points, twenty times: the final tars and index are those of a quiet run."""

import re
import subprocess
import sys

import pytest
from image_folders import fill, jpeg

PHOTOS = {f"{'ab'[number % 2]}/{number}.jpg": jpeg(number, 64, 64) for number in range(600)}


@pytest.mark.parametrize(("num_kills", "num_workers"), [(20, 1), (4, 2)])
def test_what_is_left_in_the_end_is_the_same_bytes(tmp_path, repository, num_kills, num_workers):
    fill(tmp_path / "photos", PHOTOS)
    program = repository / "tests/killed_sharding.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, str(num_kills), str(num_workers)],
        capture_output=True, text=True, env={"PYTHONPATH": f"{repository}:{repository / 'tests'}", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, rounds, num_files = map(int, re.search(r"(\d+) kills, (\d+) sets, (\d+) files", done.stdout).groups())
    assert (kills, num_files) == (num_kills, 3 * 12 + 4)
    assert 1 <= rounds < kills, "some runs were taken up again"

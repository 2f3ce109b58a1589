"""Row 27: eight first uses of an empty store at once: one experiment, and nobody dies in another one's making of it."""

import subprocess
import sys

import pytest

NUM_PROCESSES = 8


@pytest.mark.slow
def test_all_find_one_experiment(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    code = (
        "from pipeline.tracking import store\n"
        f"client = store.connect({uri!r})\n"
        f"print(store.find_or_create_experiment(client, {uri!r}, 'convoy'))"
    )
    command = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(NUM_PROCESSES)
    ]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * NUM_PROCESSES, results
    assert len({out for out, _ in results}) == 1

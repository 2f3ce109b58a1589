import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import worker_tasks

from pipeline.errors import ConvoyError
from pipeline.sharding.workers import LocalWorkers


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_results_come_in_order_and_all_work_is_reported(num_workers):
    done = []
    with LocalWorkers(num_workers) as workers:
        for _ in range(2):
            results = workers.map(worker_tasks.square, iter(range(40)), done.append)
            assert list(results) == [task * task for task in range(40)]
    assert sum(done) == 2 * sum(range(40))


def test_only_a_bounded_number_of_tasks_is_taken_ahead():
    taken = []

    def tasks():
        for task in range(50):
            taken.append(task)
            yield task

    with LocalWorkers(2) as workers:
        for number, _ in enumerate(workers.map(worker_tasks.square, tasks(), lambda count: None)):
            assert len(taken) <= number + 5


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_comes_out_as_it_was(num_workers):
    with LocalWorkers(num_workers) as workers, pytest.raises(OSError, match="No space left") as caught:
        list(workers.map(worker_tasks.fail_at_three, range(100), lambda count: None))
    assert caught.value.errno == 28


def test_a_killed_worker_is_explained():
    with (
        LocalWorkers(2) as workers,
        pytest.raises(ConvoyError, match=r"was killed, most often .* lower shards.num_workers"),
    ):
        list(workers.map(worker_tasks.be_killed, range(4), lambda count: None))


def test_one_worker_a_core_is_the_default():
    assert LocalWorkers(None).num_workers == len(psutil.Process().cpu_affinity())


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    program = (
        "from pipeline.sharding.workers import LocalWorkers; import worker_tasks\n"
        f"if __name__ == '__main__':\n"
        f"    with LocalWorkers(2) as workers:\n"
        f"        list(workers.map(worker_tasks.say_who_and_stay, [{str(tmp_path)!r}] * 2, print))\n"
    )
    (tmp_path / "program.py").write_text(program)
    here = Path(__file__).resolve().parents[1]
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], env={"PYTHONPATH": f"{here.parent}:{here}", "PATH": ""}
    )
    try:
        pids = []
        while len(pids) < 2:
            assert parent.poll() is None
            pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdigit()]
        family = psutil.Process(parent.pid).children(recursive=True)
        assert set(pids) <= {process.pid for process in family}
    finally:
        parent.kill()
        parent.wait()
    assert psutil.wait_procs(family, timeout=30)[1] == []


def test_a_worker_that_was_killed_before_the_next_task_is_explained():
    with LocalWorkers(2) as workers:
        for function in (worker_tasks.be_killed, worker_tasks.square):  # the second finds the pool broken
            with pytest.raises(ConvoyError, match=r"was killed, most often .* lower shards.num_workers"):
                list(workers.map(function, range(4), lambda count: None))


def test_workers_have_the_environment_of_the_moment(monkeypatch):
    for value in ("first", "second"):
        monkeypatch.setenv("CONVOY_TEST_ADDRESS", value)
        with LocalWorkers(2) as workers:
            found = list(workers.map(worker_tasks.variable, ["CONVOY_TEST_ADDRESS"] * 3, lambda count: None))
        assert found == [value] * 3


def test_workers_keep_their_memory_for_the_next_image():
    with LocalWorkers(2) as workers:
        fetched = list(workers.map(worker_tasks.fetch_pages, [6_000_000] * 2, lambda count: None))
    assert max(fetched) < 6_000_000 / os.sysconf("SC_PAGE_SIZE"), "twenty times as many where it is given back"

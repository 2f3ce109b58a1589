"""Tasks on a real Ray cluster of several nodes on this machine."""

import re
import signal
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import psutil
import pytest
import ray_nodes
import train_commands
import worker_tasks
from train_commands import wait_until

from pipeline.errors import ClusterError
from pipeline.launch.tasks import ClusterWorkers

pytestmark = pytest.mark.runs_ray

PATIENCE_SECONDS = train_commands.PATIENCE_SECONDS


class Began(NamedTuple):
    """A cluster that had no core at first, and what was made of that."""

    cluster: ray_nodes.Nodes
    refusal: str
    said: list[str]
    results: list[int]
    """Of the first tasks, which waited for a node."""


@pytest.fixture(scope="module")
def began():
    with ray_nodes.nodes(0) as cluster:
        said = []

        def say_and_add(line: str) -> None:
            said.append(line)
            cluster.add()

        options = {"max_failures": 0, "say": said.append}
        with pytest.raises(ClusterError) as refused:
            ClusterWorkers(cluster.address, None, worker_tasks.be_fit, wait_seconds=0.5, **options).__enter__()
        options["say"] = say_and_add
        with ClusterWorkers(
            cluster.address, None, worker_tasks.be_fit, wait_seconds=PATIENCE_SECONDS, **options
        ) as some:
            results = list(some.map(worker_tasks.square, range(3), nothing))
        cluster.add()
        yield Began(cluster, str(refused.value), said, results)


@pytest.fixture
def cluster(began):
    return began.cluster


@pytest.fixture
def said():
    return []


@pytest.fixture
def workers(cluster, said):
    """Makes them; the first argument is how many."""

    def workers(
        num_workers=None, check=worker_tasks.be_fit, address=cluster.address, max_failures=2, wait_seconds=60.0
    ):
        return ClusterWorkers(
            address, num_workers, check, max_failures=max_failures, wait_seconds=wait_seconds, say=said.append
        )

    return workers


def nothing(count: int) -> None:
    pass


@pytest.mark.parametrize("num_workers", [None, 1, 3])
def test_results_come_in_order_and_all_work_is_reported(workers, said, num_workers):
    done = []
    with workers(num_workers) as some:
        for _ in range(2):
            results = some.map(worker_tasks.square, iter(range(20)), done.append)
            assert list(results) == [task * task for task in range(20)]
        assert list(some.map(worker_tasks.square, [], done.append)) == []
    assert sum(done) == 2 * sum(range(20))
    assert said == []


def test_only_a_bounded_number_of_tasks_is_taken_ahead(workers):
    taken = []

    def tasks():
        for task in range(20):
            taken.append(task)
            yield task

    with workers() as some:
        for number, _ in enumerate(some.map(worker_tasks.square, tasks(), nothing)):
            assert len(taken) <= number + 4, "two a core"


def test_an_error_comes_out_as_it_was_and_is_met_once(workers, said, tmp_path):
    with workers() as some:
        with pytest.raises(OSError, match="No space left") as caught:
            list(some.map(worker_tasks.fail_at_three, range(10), nothing))
        assert caught.value.errno == 28
        with pytest.raises(KeyError, match="a bug of the user's"):
            list(some.map(worker_tasks.count_and_fail, [str(tmp_path)], nothing))
    assert (tmp_path / "marks").read_text() == "x"
    assert said == []


def test_a_killed_process_is_done_again_and_not_for_ever(workers, said, tmp_path):
    dying = partial(worker_tasks.die_once, str(tmp_path), "process", worker_tasks.square)
    with workers() as some:
        assert list(some.map(dying, range(6), nothing)) == [task * task for task in range(6)]
        assert len(said) == 1
        assert said[0].startswith("a piece of the work was lost (")
        assert said[0].endswith("; doing it again")
        match = r"was lost 3 times, the last time so: .* run the same command to go on\. .*lower shards.num_workers; .*"
        with pytest.raises(ClusterError, match=match + r"cluster\.max_failures"):
            list(some.map(worker_tasks.count_and_be_killed, [str(tmp_path)], nothing))
    assert (tmp_path / "marks").read_text() == "xxx"


def test_processes_end_with_a_driver_that_is_killed(cluster, tmp_path):
    program = (
        "from pipeline.launch.tasks import ClusterWorkers; import worker_tasks\n"
        f"with ClusterWorkers({cluster.address!r}, 2, worker_tasks.be_fit,"
        " max_failures=0, wait_seconds=0.0, say=print) as some:\n"
        f"    list(some.map(worker_tasks.say_who_and_stay, [{str(tmp_path)!r}] * 2, print))\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], env=train_commands.environment())
    try:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2 or driver.poll() is not None, "two tasks")
        family = [psutil.Process(int(path.name)) for path in tmp_path.iterdir()]
        assert len(family) == 2
    finally:
        driver.kill()
        driver.wait()
    assert psutil.wait_procs(family, timeout=60)[1] == []


def test_nodes_that_cannot_help_are_named_at_the_start_or_when_they_join(workers, cluster):
    with workers() as some:
        known = tuple(set(some.map(worker_tasks.where, range(20), nothing)))
    match = (
        r"(?s)^2 of the 2 nodes of the cluster cannot help; .*cluster\.address: null .*:\n  node [\d.]+ \(\w{12}\): "
    )
    with pytest.raises(ClusterError, match=match + "/data/photos cannot be seen there\n  node "):
        workers(check=partial(worker_tasks.be_fit_on, ())).__enter__()
    with pytest.raises(ClusterError, match=r"1 of the 2 nodes"):
        workers(check=partial(worker_tasks.be_fit_on, known[:1])).__enter__()
    with workers(check=partial(worker_tasks.be_fit_on, known)) as some:
        cluster.add()
        match = r"node [\d.]+ \(\w{12}\) came later and cannot help: /data/photos cannot be seen there"
        with pytest.raises(ClusterError, match=match):
            for _ in some.map(worker_tasks.where, iter(range(10_000)), nothing):
                pass


def test_a_lost_nodes_tasks_are_done_elsewhere(workers, said, tmp_path):
    dying = partial(worker_tasks.die_once, str(tmp_path), "node", worker_tasks.square)
    with workers() as some:
        assert list(some.map(dying, range(12), nothing)) == [task * task for task in range(12)]
    assert 1 <= len(said) <= 3
    assert said[-1].endswith("; doing it again")


def test_a_cluster_without_a_core_is_waited_for(began):
    assert re.search(r"has no core, after cluster\.wait_seconds=0\.5\. .*: add nodes and run the same", began.refusal)
    assert began.said == [f"the cluster has no core; waiting up to {seconds} s for nodes" for seconds in (0, 120)]
    assert began.results == [0, 1, 4]


def test_ray_leaves_the_answer_to_sigterm_as_it_was(workers):
    before = signal.getsignal(signal.SIGTERM)
    with workers():
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_lost_head_ends_the_work_with_the_way_on(workers):
    with workers() as some:
        assert list(some.map(worker_tasks.square, range(2), nothing)) == [0, 1]
        some._head._is_lost = True
        with pytest.raises(ClusterError, match=r"does not answer any more\. Nothing is gone: "):
            list(some.map(worker_tasks.square, range(2), nothing))
        some._head._is_lost = False  # this one is there, and is told that the work has ended

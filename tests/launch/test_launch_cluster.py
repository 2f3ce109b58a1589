"""Which cluster is meant, what room it has, and how long room is waited for."""

import itertools

import pytest

from pipeline.errors import ClusterError
from pipeline.launch import cluster
from pipeline.launch.cluster import Node, Room


def test_an_address_comes_first_and_a_job_stays_on_its_own_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert cluster.to_join(None) is None
    assert cluster.to_join("other:1") == "other:1"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cluster.to_join(None) == "head:6379"
    assert cluster.to_join("other:1") == "other:1"


def test_nodes_that_are_gone_or_going_have_no_room(monkeypatch):
    import ray

    found = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"NodeID": "b", "Alive": False, "Resources": {"CPU": 8.0}},
        {"NodeID": "c", "Alive": True, "Resources": {"CPU": 16.0}},
        {"NodeID": "d", "Alive": True, "Resources": {"memory": 1.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(cluster, "draining_nodes", lambda: {"c"})
    assert cluster.nodes() == [Node(4, 1), Node(0)]


class Answering:
    """A head that is there."""

    def await_answer(self):
        pass


@pytest.fixture
def wait(monkeypatch):
    """Waits for room for two ranks until second 10, on a clock that tells these times and nodes that come so."""

    def wait(times, found, is_ended=lambda: False, worlds=(2,)):
        said, clock = [], iter(times)
        nodes = itertools.chain(found, itertools.repeat(found[-1]))
        monkeypatch.setattr(cluster.time, "monotonic", lambda: next(clock))
        monkeypatch.setattr(cluster, "nodes", lambda: next(nodes))
        monkeypatch.setattr(cluster, "_POLL_SECONDS", 0.001)
        return cluster.wait_for_room(worlds, 10.0, said.append, Answering(), is_ended), said

    return wait


def test_room_is_waited_for_and_that_is_said_once(wait):
    world, said = wait([4.0, 5.0, 6.0], [[], [Node(1)], [Node(1)], [Node(1), Node(1)]])
    assert world == (2, Room(1, False))
    assert said == [
        "cluster.num_workers=2 ranks need a core each and the cluster has 0; waiting up to 6 s for nodes",
    ]


def test_who_does_not_want_it_any_more_waits_no_longer(wait):
    wishes = iter([False, False, True])
    world, said = wait([4.0, 5.0], [[Node(1)]], lambda: next(wishes))
    assert world is None
    assert len(said) == 1


def test_without_a_head_nobody_is_asked_for_room(monkeypatch):
    class Lost:
        def await_answer(self):
            raise ClusterError("it is gone")

    monkeypatch.setattr(cluster, "nodes", lambda: pytest.fail("Ray was asked"))
    with pytest.raises(ClusterError, match="it is gone"):
        cluster.wait_for_room([2], 10.0, print, Lost(), lambda: False)


def test_of_several_worlds_the_largest_that_fits_is_taken_and_none_is_waited_for(wait):
    assert wait([], [[Node(2), Node(1)]], worlds=(4, 3, 2)) == ((3, Room(1, False)), [])
    assert wait([], [[Node(4)]], worlds=(2, 1)) == ((2, Room(2, False)), [])
    few, said = wait([4.0], [[Node(1)], [Node(1), Node(1)]], worlds=(4, 2))
    assert few == (2, Room(1, False))
    assert len(said) == 1
    assert said[0].startswith("cluster.num_workers=[2, 4] ranks need a core each and the cluster has 1; waiting up to")


def test_a_world_with_gpus_comes_before_a_larger_one_without():
    assert cluster.largest_world((4, 2, 1), [Node(4, 2)]) == (2, Room(2, True))
    assert cluster.largest_world((4, 3), [Node(4, 2)]) == (4, Room(1, False))
    assert cluster.largest_world((4,), [Node(3, 4)]) is None


def test_at_the_deadline_it_is_the_end(wait):
    with pytest.raises(ClusterError, match=r"the cluster has 1; use 1 or less, or add nodes\. Nothing is gone: "):
        wait([9.99, 10.0], [[Node(1)]])


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_whatever_ray_says_of_its_start_is_an_error_with_the_way_on(monkeypatch, address):
    """Such as the bare Exception of a machine that is too busy."""
    import ray

    def time_out(**_):
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", time_out)
    monkeypatch.setattr(cluster, "look_for", lambda address: None)
    with (
        pytest.raises(ClusterError, match=r"Ray (does not start|cluster at 127\.0\.0\.1:1) .*timed out during startup"),
        cluster.connected(address),
    ):
        raise AssertionError("it did not start")

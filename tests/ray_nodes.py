"""A Ray cluster of several nodes on this machine: a head without cores, and nodes that come and are killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import train_commands

_SYSTEM = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
"""A lost node is noticed in seconds instead of half a minute."""


class Nodes:
    """Each with one core; `address` is the cluster's."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": _SYSTEM, **self._plain()}
        )
        self.address = self._cluster.address

    def add(self, count: int = 1) -> None:
        for _ in range(count):
            self._cluster.add_node(num_cpus=1, **self._plain())

    def wait_for(self, count: int) -> None:
        """Until there are so many with cores, whoever started or ended them."""

        def num_nodes() -> int:
            nodes = self._cluster.global_state.node_table()
            return sum(node["Alive"] and bool(node["Resources"].get("CPU")) for node in nodes)

        train_commands.wait_until(lambda: num_nodes() == count, f"a cluster of {count} nodes")

    def lose_head(self, with_its_machine: bool) -> None:
        """Kills what knows of the cluster, or all that runs beside it, a stage's controller among that."""
        head = self._cluster.head_node
        if with_its_machine:
            head.kill_all_processes(check_alive=False, allow_graceful=False)
        else:
            head.kill_gcs_server(check_alive=False)

    def end(self) -> None:
        self._cluster.shutdown()

    def _plain(self) -> dict:
        return {"include_dashboard": False, "object_store_memory": 80 * 1024**2}


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """A cluster that ends with the block. What its workers need to find is in this process's environment first."""
    before = dict(os.environ)
    os.environ.update(train_commands.environment())
    cluster = Nodes()
    try:
        cluster.add(count)
        yield cluster
    finally:
        cluster.end()
        os.environ.clear()
        os.environ.update(before)

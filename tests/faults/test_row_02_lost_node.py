"""Row 2: a node is lost, its raylet killed. Without a replacement there is a bounded wait and the way on; with one the
run goes on, and nothing of it shows in the end."""

import pytest
import ray_nodes
import train_commands
from train_commands import Fault, wait_until

PATIENCE_SECONDS = 300.0
"""Ray takes its time to notice a lost node, and three nodes on two cores to start two ranks."""


@pytest.mark.long_fault
@pytest.mark.timeout(3 * PATIENCE_SECONDS)
def test_a_run_waits_for_a_node_and_goes_on_where_there_is_one(project, undisturbed_by_two):
    with ray_nodes.nodes(2) as cluster:
        alone = project(cluster={"num_workers": 2, "address": cluster.address, "wait_seconds": 15.0})
        left = train_commands.Command(alone, Fault("lose node", step=4, rank=1)).wait(PATIENCE_SECONDS)
        assert left.exit_code == 1, left.said
        assert "ranks need a core each and the cluster has 1; waiting up to " in left.said
        assert "error: cluster.num_workers=2 ranks need a core each and the cluster has 1; use 1 or less" in left.said
        assert "Nothing is gone: the same command then goes on from the newest checkpoint" in left.said

        params = alone / "params.yaml"
        params.write_text(params.read_text().replace("wait_seconds: 15.0", "wait_seconds: 100.0"))
        cluster.add()
        again = train_commands.Command(alone, Fault("lose node", step=9, rank=0))
        wait_until(lambda: "waiting up to" in again.said, "the loss of the second node")
        cluster.add()
        assert again.wait(PATIENCE_SECONDS).exit_code == 0, again.said
    train_commands.ended_as(undisturbed_by_two, alone)
    train_commands.published_once(alone)

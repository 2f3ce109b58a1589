"""Row 2: a node is lost, its raylet killed. Without a replacement there is a bounded wait and the way on; with one the
run goes on, and nothing of it shows in the end. A world that may be smaller goes on with what is left."""

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


@pytest.mark.long_fault
@pytest.mark.timeout(2 * PATIENCE_SECONDS)
def test_an_elastic_world_goes_on_with_what_is_left_and_grows_with_a_new_node(project, undisturbed_by_two):
    with ray_nodes.nodes(2) as cluster:
        folder = project(cluster={"num_workers": [1, 2], "address": cluster.address, "max_failures": 1})
        faults = Fault("lose node", step=4, rank=0), Fault("meet a pause", step=9, rank=0)
        trained = train_commands.Command(folder, *faults)
        wait_until(lambda: "training with 1 rank" in trained.said, "the world of one")
        cluster.add()
        assert trained.wait(PATIENCE_SECONDS).exit_code == 0, trained.said
    said = [line for line in trained.said.splitlines() if "training with" in line or "going on" in line]
    assert said[:1] + said[-3:] == [
        "training with 2 ranks",
        "training with 1 rank",
        "there is room for 2 ranks; going on from the newest checkpoint",
        "training with 2 ranks",
    ]
    run = train_commands.the_run(folder)
    steps, samples, _ = zip(*train_commands.history(run), strict=True)
    assert (steps, samples) == tuple(zip(*train_commands.history(undisturbed_by_two), strict=True))[:2]
    assert len(list((run / "ledger").glob("*-rank-00001.jsonl"))) == 2, "of the first world and of the last"
    train_commands.published_once(folder)

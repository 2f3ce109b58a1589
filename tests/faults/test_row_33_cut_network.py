"""Row 33: the network between two nodes is cut, for good and for 30 s. Whatever the ranks of before do or say when they
are heard again: the ledger and the weights are those of an undisturbed run."""

import cut_wire
import pytest
import train_commands
from train_commands import Fault, wait_until

PATIENCE_SECONDS = 300.0
"""Ray takes its time to notice a lost node, and three nodes on two cores to start two ranks."""


@pytest.mark.long_fault
@pytest.mark.timeout(3 * PATIENCE_SECONDS)
def test_for_good(project, undisturbed_by_two):
    with cut_wire.cluster(train_commands.environment()) as cluster:
        folder = project(
            cluster={"num_workers": 2, "address": cluster.address, "hang_seconds": 60.0, "wait_seconds": 15.0}
        )
        left = train_commands.Command(folder, Fault("cut the wire", 6), network=cluster.network).wait(PATIENCE_SECONDS)
        assert left.exit_code == 1, left.said
        assert "ranks need a core each and the cluster has 1; waiting up to " in left.said
        assert "Nothing is gone: the same command then goes on from the newest checkpoint" in left.said
        cluster.add(cut_wire.NEAR)
        again = train_commands.Command(folder, network=cluster.network).wait(PATIENCE_SECONDS)
        assert again.exit_code == 0, again.said
    train_commands.ended_as(undisturbed_by_two, folder)
    train_commands.published_once(folder)


@pytest.mark.long_fault
@pytest.mark.timeout(3 * PATIENCE_SECONDS)
def test_for_thirty_seconds(project, undisturbed_by_two):
    with cut_wire.cluster(train_commands.environment()) as cluster:
        folder = project(
            cluster={"num_workers": 2, "address": cluster.address, "hang_seconds": 60.0, "wait_seconds": 200.0}
        )
        command = train_commands.Command(folder, Fault("cut the wire for 30 s", 6), network=cluster.network)
        lost = "ranks need a core each and the cluster has 1"
        # What was sent meanwhile is sent again: the far node may have been given up by then, or nothing was noticed.
        wait_until(lambda: command.exit_code is not None or lost in command.said, "the end, or the far node's loss")
        wait_until(cluster.is_whole, "the mended wire")
        if lost in command.said:
            cluster.add(cut_wire.FAR)
        assert command.wait(PATIENCE_SECONDS).exit_code == 0, command.said
    train_commands.ended_as(undisturbed_by_two, folder)
    train_commands.published_once(folder)

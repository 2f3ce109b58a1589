"""Row 7: one rank stops answering (SIGSTOP): noticed within cluster.hang_seconds, restarted; nothing of it shows."""

import pytest
import train_commands
from train_commands import Fault

HANG_SECONDS = 10.0
RESTART_SECONDS = 50.0
"""What Ray and the imports of two new ranks may take on a busy machine; not half a minute more for the frozen one."""


@pytest.mark.long_fault
def test_a_frozen_rank_is_noticed_and_replaced(project, undisturbed_by_two):
    """Rank 0: the one that also holds the lock of the run's folder."""
    folder = project(cluster={"num_workers": 2, "hang_seconds": HANG_SECONDS})
    done = train_commands.train(folder, Fault("freeze", step=3, rank=0))
    assert done.exit_code == 0, done.said
    assert done.said.count("going on from the newest checkpoint") == 1
    train_commands.ended_as(undisturbed_by_two, folder)
    (frozen,) = folder.glob("*.fault-0")
    again = (train_commands.the_run(folder) / "ledger" / "attempt-0002-rank-00000.jsonl").stat().st_mtime
    assert again - frozen.stat().st_mtime < HANG_SECONDS + RESTART_SECONDS

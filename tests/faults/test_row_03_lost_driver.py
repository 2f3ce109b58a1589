"""Row 3: the driver is killed, then the same command again: it resumes, no worker is left over, one MLflow run."""

import psutil
import pytest
import train_commands
from train_commands import Fault, wait_until


def processes_of(folder):
    """Whoever works for this project: its command and the Ray that this started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CONVOY_TEST_PROJECT") == str(folder):
                found.append(process.pid)
        except psutil.Error:  # it ended, or is not ours
            continue
    return found


@pytest.mark.long_fault
def test_the_same_command_resumes_and_no_worker_is_left(undisturbed, project, monkeypatch):
    folder = project(cluster={"num_workers": 1})
    monkeypatch.setenv("CONVOY_TEST_PROJECT", str(folder))
    killed = train_commands.train(folder, Fault("kill driver", step=6))
    assert killed.exit_code == -9
    resumed = train_commands.train(folder)  # at once, while the killed one's rank may still be there
    assert resumed.exit_code == 0, resumed.said
    run = train_commands.the_run(folder)
    assert train_commands.history(run) == train_commands.history(undisturbed)
    assert train_commands.same_weights(run, undisturbed)
    (page,) = train_commands.mlflow_runs(folder)
    assert (page.info.status, page.data.tags["attempts"]) == ("FINISHED", "2")
    wait_until(lambda: processes_of(folder) == [], "the end of every process")

"""Row 3: the driver or the head is killed, then the same command again: it resumes, no worker is left over, one MLflow
run."""

import psutil
import pytest
import ray_nodes
import train_commands
from train_commands import PATIENCE_SECONDS, Fault, wait_until


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
    train_commands.ended_as(undisturbed, folder)
    train_commands.published_once(folder, attempts=2)
    wait_until(lambda: processes_of(folder) == [], "the end of every process")


@pytest.mark.long_fault
@pytest.mark.timeout(6 * PATIENCE_SECONDS)
@pytest.mark.parametrize("with_its_machine", [True, False])
def test_a_lost_head_is_said_and_another_goes_on(undisturbed_by_two, project, monkeypatch, with_its_machine):
    with ray_nodes.nodes(2) as cluster:
        folder = project(cluster={"num_workers": 2, "address": cluster.address})
        monkeypatch.setenv("CONVOY_TEST_PROJECT", str(folder))
        left = train_commands.Command(folder, Fault("wait", step=6))
        left.wait_for_faults()
        cluster.lose_head(with_its_machine)
        left.wait()
        assert left.exit_code == 1, left.said
        assert f"error: The head of the Ray cluster at {cluster.address} does not answer any more. " in left.said
        assert "Nothing is gone: once there is a head again, run the same command to go on." in left.said
        old_address = cluster.address
    wait_until(lambda: processes_of(folder) == [], "the end of every process")
    with ray_nodes.nodes(2) as cluster:
        params = folder / "params.yaml"
        params.write_text(params.read_text().replace(old_address, cluster.address))
        resumed = train_commands.Command(folder).wait(2 * PATIENCE_SECONDS)
        assert resumed.exit_code == 0, resumed.said
    train_commands.ended_as(undisturbed_by_two, folder)
    train_commands.published_once(folder, attempts=2)

"""Row 24: MLflow is down or slow while a run trains; the run is none the worse, and later its history is complete.
tests/tracking has a server that goes away in the middle and at the end, never answers, or answers with an error."""

import itertools
import subprocess
import sys

import pytest
import train_commands
from mlflow_server import Server, slow_way_to
from train_commands import Fault

from pipeline.tracking import spool, store
from pipeline.tracking.run import SPOOL_FILE


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def sync(folder):
    command = [sys.executable, "-m", "pipeline", "track", "sync"]
    environment = train_commands.environment()
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.long_fault
def test_a_run_without_its_server_is_published_later(undisturbed, project, server):
    folder = project(tracking={"uri": server.uri})
    killed = train_commands.train(folder, Fault("kill", step=6))
    assert killed.exit_code == -9
    trained = train_commands.train(folder)
    assert trained.exit_code == 0
    assert f"trained, not yet published: The MLflow store {server.uri} cannot be used" in trained.said
    assert "`convoy track sync` sends them" in trained.said
    run = train_commands.the_run(folder)
    train_commands.ended_as(undisturbed, folder)
    refused = sync(folder)
    assert refused.returncode == 1
    assert f"error: 1 of 1 runs still wait:\n{run.name}: The MLflow store {server.uri} cannot be used" in refused.stderr

    server.start()
    sent = sync(folder)
    assert sent.returncode == 0, sent.stderr
    client = store.connect(server.uri)
    (page,) = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
    assert f"sent: {run.name} is MLflow's run {page.info.run_id}" in sent.stdout
    assert (page.info.status, page.data.tags["attempts"]) == ("FINISHED", "2")
    steps = [metric.step for metric in client.get_metric_history(page.info.run_id, "train/loss")]
    assert sorted(steps) == list(range(1, 16))
    assert "nothing waits" in sync(folder).stdout


@pytest.mark.long_fault
def test_no_step_waits_for_a_server_that_takes_five_seconds_to_answer(undisturbed, project, server):
    server.start()
    with slow_way_to(server.uri, 5.0) as slow_uri:
        folder = project(tracking={"uri": slow_uri})
        trained = train_commands.train(folder)
        assert trained.exit_code == 0, trained.said
        run = train_commands.the_run(folder)
        train_commands.ended_as(undisturbed, folder)
        lines, _ = spool.read(run / SPOOL_FILE, spool.Position(), committed_step=15)
        moments = [line.time_seconds for line in lines if "train/loss" in line.metrics]
        assert len(moments) == 15
        pauses = [later - sooner for sooner, later in itertools.pairwise(moments)]
        assert sum(pause > 5.0 for pause in pauses) <= 1, "one may be a busy machine's own"
        assert sync(folder).returncode == 0
    client = store.connect(server.uri)
    (page,) = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
    assert page.info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(page.info.run_id, "train/loss")]
    assert sorted(steps) == list(range(1, 16))

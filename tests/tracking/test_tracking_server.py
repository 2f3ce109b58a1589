"""A tracker and a real MLflow server that is down at the start, in the middle and at the end of training."""

import http.server
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from mlflow_server import Server, wait_until

from pipeline.tracking import store
from pipeline.tracking.mlflow import open_run
from pipeline.tracking.run import RUN_FILE, SPOOL_FILE, Dataset, RunRecord
from pipeline.tracking.spool import Spool

DATA = Dataset(name="demo", digest="d" * 64, class_counts={"o": 3, "x": 4})


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.kill()


def open_for(server, folder, open_seconds):
    return open_run(server.uri, "convoy", folder, "run", {"lr": 0.1}, {}, DATA, open_seconds)


def train(folder, steps):
    spool = Spool(folder / SPOOL_FILE)
    for step in steps:
        spool.append(step, {"train/loss": 1 / (step + 1), "lr": float("nan")})
    spool.close()


@pytest.mark.slow
def test_a_server_that_comes_and_goes(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("pipeline.tracking.mlflow.LONGEST_PAUSE_SECONDS", 1.0)
    folder = tmp_path / "run"

    # down at the start: training is not kept, and nothing has to be done when it comes
    tracker = open_for(server, folder, open_seconds=1.0)
    assert tracker.run_id is None
    assert "cannot be used" in tracker.problem
    train(folder, range(100))
    tracker.pump(49)
    server.start()
    wait_until(lambda: tracker.run_id is not None, "the creation of the run")
    client = store.connect(server.uri)

    def steps(key="train/loss"):
        return [metric.step for metric in client.get_metric_history(tracker.run_id, key)]

    wait_until(lambda: len(steps()) == 50, "the first half")

    # down in the middle: the call that sends returns at once
    server.kill()
    start = time.monotonic()
    tracker.pump(99)
    assert time.monotonic() - start < 0.1
    wait_until(lambda: tracker.problem is not None, "the loss of the server")
    server.start()
    wait_until(lambda: len(steps()) == 100, "the second half")

    # down at the end: said so, within the time given; the next start finishes the job
    server.kill()
    train(folder, range(100, 120))
    tracker.pump(119)
    start = time.monotonic()
    assert not tracker.finish("FINISHED", drain_seconds=1.0)
    assert time.monotonic() - start < 5.0
    record = RunRecord.read(folder / RUN_FILE)
    assert (record.status, record.committed_step, record.run_id) == ("FINISHED", 119, tracker.run_id)
    server.start()
    again = open_for(server, folder, open_seconds=30.0)
    assert again.run_id == tracker.run_id
    again.pump(119)
    assert again.finish("FINISHED", drain_seconds=30.0)

    assert steps() == list(range(120))
    assert steps("lr") == list(range(120))
    assert client.get_run(again.run_id).info.status == "FINISHED"
    assert len(client.search_runs([client.get_experiment_by_name("convoy").experiment_id])) == 1


def test_a_server_that_accepts_and_never_answers_keeps_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        start = time.monotonic()
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        tracker = open_run(uri, "convoy", tmp_path, "run", {}, {}, DATA, open_seconds=0.5)
        assert tracker.run_id is None
        tracker.pump(10)
        assert not tracker.finish("FINISHED", drain_seconds=0.5)
        assert f"The MLflow store {uri} " in tracker.problem
        assert time.monotonic() - start < 15.0  # the first import of mlflow among it
    assert RunRecord.read(tmp_path / RUN_FILE).run_id is None


@pytest.mark.parametrize(("status", "said"), [(401, "401"), (500, "500")])
def test_a_server_that_answers_with_an_error_keeps_nobody_and_is_quoted(tmp_path, monkeypatch, status, said):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            tracker = open_for(SimpleNamespace(uri=f"http://127.0.0.1:{server.server_port}"), tmp_path, 0.5)
            assert tracker.run_id is None
            train(tmp_path, range(3))
            tracker.pump(2)
            start = time.monotonic()
            assert not tracker.finish("FINISHED", drain_seconds=0.5)
            assert time.monotonic() - start < 5.0
        finally:
            server.shutdown()
    assert f"The MLflow store http://127.0.0.1:{server.server_port} cannot be used: " in tracker.problem
    assert said in tracker.problem
    assert RunRecord.read(tmp_path / RUN_FILE).committed_step == 2

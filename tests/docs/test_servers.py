"""The lines of the pages that start a server: each is started, on a port of its own, and asked."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

PATIENCE_SECONDS = 120.0

MLFLOW_UI = "mlflow ui --backend-store-uri sqlite:///mlflow.db"
MLFLOW_SERVE = "mlflow models serve --model-uri models:/convoy-demo@champion --env-manager local --port 5001"


@contextlib.contextmanager
def started(command: str, folder, port: int):
    """Runs a server until the block ends; yields once its port takes connections."""
    log = folder / f"server-{port}.log"
    with log.open("ab") as output:
        server = subprocess.Popen(command.split(), cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not _takes_connections(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)  # another process has no event to wait for
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _takes_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port: int, path: str, body: dict | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_mlflow_ui_shows_the_run(finished_project, port):
    with started(f"{MLFLOW_UI} --port {port}", finished_project, port):
        assert "<title>MLflow</title>" in ask(port, "/")
        found = json.loads(ask(port, "/api/2.0/mlflow/registered-models/alias?name=convoy-demo&alias=champion"))
        assert found["model_version"]["version"] == "1"
        run_id = json.loads((finished_project / "data" / "run.json").read_text(encoding="utf-8"))["run_id"]
        page = ask(port, f"/get-artifact?run_uuid={run_id}&path=report/report.html")
        assert page == (finished_project / "data" / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_mlflow_serves_the_champion(finished_project, port):
    image = (finished_project / "data" / "raw" / "demo" / "X" / "00000.jpg").read_bytes()
    with started(MLFLOW_SERVE.replace("5001", str(port)), finished_project, port):
        answer = json.loads(ask(port, "/invocations", {"inputs": [base64.b64encode(image).decode()]}))
    (prediction,) = answer["predictions"]
    assert prediction["error"] == ""
    assert prediction["label"] in ("O", "X")
    assert sum(prediction["probabilities"].values()) == pytest.approx(1.0)

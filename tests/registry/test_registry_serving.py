"""The registered model behind `mlflow models serve`: a real server, asked over HTTP as anybody would."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from pipeline.registry import package
from pipeline.registry.classify import Classifier
from pipeline.tracking import store
from pipeline.tracking.address import resolve

PATIENCE_SECONDS = 120.0


@pytest.fixture
def address(exported, tmp_path):
    """Where the model answers. It is served from an empty folder: nothing of this tree may be needed."""
    import mlflow

    uri = resolve(None, tmp_path / "store")
    client = store.connect(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=store.find_or_create_experiment(client, uri, "convoy"))
    model_uri = package.log(exported, "served", None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--model-uri", model_uri]
    (tmp_path / "empty").mkdir()
    # An editable install would lend the server our code: only what travels with the model may answer.
    hide = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]\n"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(hide)
    environ = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(tmp_path / "site")}
    importing = subprocess.run([sys.executable, "-c", "import pipeline"], cwd=tmp_path, env=environ, stderr=-1)
    assert b"No module named 'pipeline'" in importing.stderr
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path / "empty", env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_up(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_up(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


def ask(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["predictions"]


@pytest.mark.slow
def test_the_server_answers_what_the_export_answers(address, exported):
    image = package._example(SimpleNamespace(input_px=100, num_channels=3, pixel_dtype="uint8"))
    encoded = base64.b64encode(image).decode()
    good, bad, again = ask(address, {"inputs": [encoded, base64.b64encode(b"no image").decode(), encoded]})
    expected = next(Classifier(exported).classify([image]))
    assert good == again
    assert (good["label"], good["error"]) == (expected.label, "")
    assert good["probabilities"] == pytest.approx(expected.probabilities)
    assert (bad["label"], bad["probabilities"]) == ("", {})
    assert "no image of a known format" in bad["error"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(address, {"inputs": [5]})
    with caught.value as answer:
        assert answer.code == 400

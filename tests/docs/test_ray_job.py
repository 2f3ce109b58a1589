"""The lines that send the whole pipeline to a Ray head, with a real head on this machine, as the README has them."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import projects
import psutil
import pytest

START = "infra/ray/head.sh"
EXPORT = "export RAY_AUTH_MODE=token"
SUBMIT = "ray job submit --working-dir . -- python -m pipeline repro"


def free_ports(num_ports: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ports)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def environment(tmp_path):
    """A person's shell, with a home of its own."""
    return os.environ | {"HOME": str(tmp_path)}


@pytest.fixture
def head(environment):
    """The dashboard's address of a head that ends with the test, and Ray's folder."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for the sockets in it
    port, dashboard, client, agent = free_ports(4)
    options = f" --block --port {port} --dashboard-port {dashboard} --ray-client-server-port {client}"
    options += f" --dashboard-agent-listen-port {agent} --temp-dir {folder} --object-store-memory 100000000"
    process = subprocess.Popen(
        (START + options).split(),
        cwd=projects.REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if "will now block" in line:
            break
    assert process.poll() is None, "".join(said)
    yield f"http://127.0.0.1:{dashboard}", folder
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        each.kill()  # asked kindly, `ray start --block` takes half a minute
    process.communicate()
    shutil.rmtree(folder)


@pytest.fixture
def sent_project(tmp_path, repository):
    """A checkout whose outputs go to a folder outside it, with a tar in it that must stay at home."""
    cluster = {"num_workers": 1, "storage": str(tmp_path / "storage")}
    folder = projects.write(tmp_path / "project", projects.SMALL, {"cluster": cluster})
    shutil.copytree(repository / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data" / "shards").mkdir(parents=True)
    (folder / "data" / "shards" / "big.tar").write_bytes(bytes(1000))
    return folder


@pytest.mark.slow
def test_the_whole_pipeline_runs_as_a_ray_job(environment, head, sent_project, tmp_path):
    address, ray_folder = head
    environment = environment | {"RAY_API_SERVER_ADDRESS": address}
    without_token = subprocess.run(SUBMIT.split(), cwd=sent_project, env=environment, capture_output=True, text=True)
    assert without_token.returncode == 1
    assert "token authentication is enabled" in without_token.stderr

    environment |= [EXPORT.removeprefix("export ").split("=")]
    done = subprocess.run(SUBMIT.split(), cwd=sent_project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    storage = tmp_path / "storage"
    registration = json.loads((storage / "data" / "registration.json").read_text(encoding="utf-8"))
    assert registration["alias"] == "champion"
    assert registration["tracking_uri"] == f"sqlite:///{storage}/mlflow.db"
    assert (storage / "data" / "report" / "report.html").exists()
    run = json.loads((storage / "data" / "run.json").read_text(encoding="utf-8"))
    assert (storage / "runs" / run["fingerprint"]).is_dir()

    (travelled,) = [path.parent for path in ray_folder.glob("session_2*/runtime_resources/**/dvc.yaml")]
    assert not list(travelled.rglob("*.tar"))

"""Each finding of the doctor, made by really breaking the thing it looks at."""

import http.server
import os
import socket
import sqlite3
import threading
import time
from types import SimpleNamespace

import projects
import pytest

from pipeline import params
from pipeline.imaging import crops, region
from pipeline.stages import doctor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder without git, the working directory of the test."""
    monkeypatch.chdir(projects.write(tmp_path / "project", projects.SMALL))
    return tmp_path / "project"


@pytest.fixture
def sections(tmp_path):
    cluster = {"cluster": {"num_workers": 1}}
    return params.read(projects.write(tmp_path / "sections", projects.SMALL, cluster) / "params.yaml")


@pytest.fixture
def put_nvidia_smi(tmp_path_factory, monkeypatch):
    """Puts a shell script on PATH under that name."""

    def put(script: str) -> None:
        command = tmp_path_factory.mktemp("bin") / "nvidia-smi"
        command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")

    return put


def changed(section, **values):
    return section.model_copy(update=values)


def test_a_whole_folder_needs_no_mending(folder, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # neither nvidia-smi nor git
    assert doctor.doctor()
    said = capsys.readouterr().out
    assert f"{len(params.Params.model_fields)} sections" in said
    assert "as locked" in said
    assert "mend" not in said


def test_it_takes_under_two_seconds_when_nothing_answers(folder, monkeypatch, put_nvidia_smi):
    put_nvidia_smi("exec tail -f /dev/null")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        assert doctor.doctor()
        assert time.perf_counter() - start < 2.0


def test_wrong_params_are_shown_and_the_rest_is_still_looked_at(folder, capsys):
    (folder / "params.yaml").write_text("data: demo\n", encoding="utf-8")
    assert not doctor.doctor()
    said = capsys.readouterr().out
    assert "demo is missing" in said
    assert "shared memory" in said
    assert "data.source" not in said


def test_native_decoding_is_named_and_its_absence_explained(monkeypatch):
    monkeypatch.setattr(region, "_native", region.Native(True, "libjpeg-turbo 2.1.5"))
    monkeypatch.setattr(crops, "_native", region.Native(True, "AVX2"))
    assert doctor.jpeg() == doctor.Finding("jpeg", "ok", "native decoding by libjpeg-turbo 2.1.5, crops by AVX2")
    monkeypatch.setattr(crops, "_native", region.Native(False, "this processor has no AVX2"))
    assert doctor.jpeg().found == "native decoding by libjpeg-turbo 2.1.5, no crops: this processor has no AVX2"
    monkeypatch.setattr(region, "_native", region.Native(False, "not built"))
    assert doctor.jpeg().state == "look"
    assert doctor.jpeg().found == "no native decoding: not built"
    assert "docs/performance.md" in doctor.jpeg().remedy


def test_another_python(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 12, 1))
    assert doctor.python().state == "mend"
    assert "3.12.1" in doctor.python().found


def test_packages_as_locked(repository):
    assert doctor.packages(repository / "requirements.lock").state == "ok"


def test_packages_of_other_versions(tmp_path):
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "absent==1.0 \\\n    --hash=sha256:00\n"
        "other-platform==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
        "Typing_Extensions==0.1 ; python_full_version < '3.12' \\\n"
        "typing-extensions==0.2 ; python_full_version >= '3.12'\n",
        encoding="utf-8",
    )
    finding = doctor.packages(lock)
    assert finding.state == "mend"
    assert finding.found.startswith("absent missing instead of 1.0, typing-extensions ")
    assert finding.found.endswith("instead of 0.1 or 0.2")
    lock.write_text("".join(f"absent-{number}==1\n" for number in range(5)), encoding="utf-8")
    assert doctor.packages(lock).found.endswith(" and 2 more")
    assert doctor.packages(tmp_path / "nowhere").state == "look"


def test_little_memory(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5e9))
    assert doctor.memory() == doctor.Finding("memory", "look", "1.5 GB free", "a run wants 4.0 GB and more")


@pytest.mark.parametrize(("total", "state"), [(64e6, "look"), (2e9, "ok")])
def test_shared_memory(monkeypatch, tmp_path, total, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(total=total))
    assert doctor.shared_memory(tmp_path).state == state
    assert doctor.shared_memory(tmp_path / "absent").state == "look"


@pytest.mark.parametrize(("free", "state"), [(1e8, "mend"), (1e9, "look"), (1e11, "ok")])
def test_disk(monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert doctor.disk().state == state


@pytest.mark.parametrize(
    ("script", "state", "found"),
    [
        (
            "echo 'NVIDIA T4, 15360 MiB'; echo 'NVIDIA T4, 15360 MiB'",
            "ok",
            "NVIDIA T4, 15360 MiB; NVIDIA T4, 15360 MiB",
        ),
        ("echo 'Failed to initialize NVML'; exit 9", "mend", "Failed to initialize NVML"),
        ("exec tail -f /dev/null", "look", "nvidia-smi does not answer"),
    ],
)
def test_gpus(put_nvidia_smi, monkeypatch, script, state, found):
    put_nvidia_smi(script)
    monkeypatch.setattr(doctor, "ANSWER_SECONDS", 0.5)
    finding = doctor.gpu()
    assert (finding.state, finding.found) == (state, found)


def test_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert doctor.gpu().state == "ok"


def test_git_and_dvc(folder, repository, monkeypatch):
    assert doctor.git().state == "look"
    assert doctor.dvc().state == "ok"
    (folder / "dvc.yaml").unlink()
    assert doctor.dvc().found == "no dvc.yaml here"
    assert doctor.dvc().state == "mend"


@pytest.mark.parametrize(
    ("given", "state", "found"),
    [
        ("demo", "ok", "demo"),
        ("s3://bucket/photos", "look", "s3://bucket/photos; not looked at here"),
        ("tars/*.tar", "ok", "tars/*.tar"),
        ("tars/train-*.tar", "mend", "No such file"),
        ("absent", "mend", "absent: No such file or directory"),
        ("empty", "mend", "empty is empty"),
        ("photos", "ok", "photos"),
        ("table.csv", "ok", "table.csv"),
        ("table.csv/x", "mend", "Not a directory"),
    ],
)
def test_the_source(folder, sections, given, state, found):
    (folder / "empty").mkdir()
    (folder / "photos" / "cat").mkdir(parents=True)
    (folder / "table.csv").touch()
    (folder / "tars").mkdir()
    (folder / "tars" / "0.tar").touch()
    finding = doctor.source(changed(sections["data"], source=given))
    assert finding.state == state
    assert found in finding.found


def test_more_ranks_than_cores(sections):
    assert doctor.ranks(changed(sections["cluster"], num_workers=1)).state == "ok"
    crowded = changed(sections["cluster"], num_workers=100_000)
    assert doctor.ranks(crowded).state == "look"
    assert doctor.ranks(changed(crowded, address="10.0.0.1:6379")).state == "ok"
    elastic = doctor.ranks(changed(sections["cluster"], num_workers=(1, 100_000)))
    assert elastic.state == "ok"
    assert elastic.found.endswith(" for 1 to 100,000 ranks")
    assert doctor.ranks(changed(sections["cluster"], num_workers=(99_999, 100_000))).state == "look"


@pytest.mark.parametrize("scheme", ["", "ray://", "http://"])
def test_a_ray_cluster(sections, scheme):
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"{scheme}127.0.0.1:{head.getsockname()[1]}"
        cluster = changed(sections["cluster"], address=address)
        assert doctor.ray(cluster) == doctor.Finding("ray", "ok", f"{address} answers")
    assert doctor.ray(cluster).state == "mend"
    assert f"{address} does not answer" in doctor.ray(cluster).found


@pytest.mark.parametrize("address", ["host-without-port", "host:no-number", "auto"])
def test_an_address_that_is_none(sections, address):
    assert doctor.ray(changed(sections["cluster"], address=address)).state == "mend"


def test_no_cluster(sections):
    assert doctor.ray(sections["cluster"]).found == "started on this machine"
    assert doctor.ray(changed(sections["cluster"], num_workers=0)).found == "no Ray: training in one process"


def test_the_embedded_store(folder, sections):
    finding = doctor.mlflow(sections["tracking"], sections["cluster"])
    assert (finding.state, finding.found) == ("ok", f"{folder}/mlflow.db will be made")
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("create table runs (id)")
    connection.close()
    assert doctor.mlflow(sections["tracking"], sections["cluster"]).state == "ok"
    (folder / "mlflow.db").write_text("no database", encoding="utf-8")
    assert doctor.mlflow(sections["tracking"], sections["cluster"]).state == "mend"


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_tracking_server(sections):
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://user:secret@127.0.0.1:{server.server_port}/"
        tracking = changed(sections["tracking"], uri=uri)
        try:
            answered = doctor.mlflow(tracking, sections["cluster"])
        finally:
            server.shutdown()
            thread.join()
    assert answered == doctor.Finding("mlflow", "ok", f"http://127.0.0.1:{server.server_port}/ answers")
    finding = doctor.mlflow(tracking, sections["cluster"])
    assert finding.state == "look"
    assert "does not answer" in finding.found
    assert "secret" not in finding.found
    assert doctor.mlflow(changed(tracking, uri="http://host:port"), sections["cluster"]).state == "look"


def test_a_store_that_is_not_looked_at_and_one_that_is_none(sections):
    other = changed(sections["tracking"], uri="postgresql://user:secret@db/mlflow")
    assert doctor.mlflow(other, sections["cluster"]) == doctor.Finding(
        "mlflow", "look", "postgresql://db/mlflow; not looked at here"
    )
    finding = doctor.mlflow(changed(sections["tracking"], uri="./mlruns"), sections["cluster"])
    assert finding.state == "mend"
    assert "'./mlruns' is not a store" in finding.found

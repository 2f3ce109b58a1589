"""The register stage in a folder as the other stages leave it: what it writes, where, and what it refuses."""

import concurrent.futures
import json

import pytest
import registrable
from mlflow_server import wait_until

from pipeline import params
from pipeline.artifacts import Registration, Run
from pipeline.errors import ArtifactError, ParamsError, TrackingError
from pipeline.metrics import Metrics
from pipeline.registry import export
from pipeline.stages import layout
from pipeline.stages.publish import turn
from pipeline.stages.register import register
from pipeline.tracking import store

REGISTRY = params.Registry(model_name="convoy-demo", min_top1=0.9, min_mean_ap=0.5)
TRACKING = params.Tracking(uri=None, experiment="convoy")


def rewrite(model, path, **fields):
    model.read(path, made_by="-").model_copy(update=fields).write(path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with everything that register reads, and the working directory of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registrable.write(tmp_path, tracking_uri=f"sqlite:///{tmp_path}/history/mlflow.db")
    layout.PARAMS.write_text("registry: {}\n")
    return tmp_path


def test_the_stage_registers_in_the_store_of_the_training_run_and_once(project, capsys):
    register(REGISTRY, TRACKING)
    first = layout.REGISTRATION.read_bytes()
    registration = Registration.read(layout.REGISTRATION, made_by="register")
    assert (registration.version, registration.alias) == ("1", "champion")
    assert registration.tracking_uri == f"sqlite:///{project}/history/mlflow.db"
    assert registration.weights_sha256 == export.read_facts(layout.MODEL).weights_sha256
    assert "convoy-demo version 1 is champion (test top-1 0.9500)." in capsys.readouterr().out
    assert not (project / "mlflow.db").exists()
    assert not (project / "mlruns").exists()

    register(REGISTRY, TRACKING)
    again = json.loads(layout.REGISTRATION.read_bytes())
    assert again | {"reasons": 0} == json.loads(first) | {"reasons": 0}


def test_a_store_that_the_user_names_comes_first(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"http://127\.0\.0\.1:9 cannot be used") as caught:
        register(REGISTRY, TRACKING)
    assert "secret" not in str(caught.value)
    assert not layout.REGISTRATION.exists()
    with pytest.raises(TrackingError, match="is not a store that MLflow can open"):
        register(REGISTRY, TRACKING.model_copy(update={"uri": "mlruns"}))


def test_a_registration_waits_for_the_one_before(project, capsys):
    lock = project / "history" / "mlflow.db.register.lock"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with turn(lock, print):
            waiting = pool.submit(register, REGISTRY, TRACKING)
            wait_until(lambda: f"waiting for the process that holds {lock}" in capsys.readouterr().out, "the second")
            assert not layout.REGISTRATION.exists()
        waiting.result(60)
    assert Registration.read(layout.REGISTRATION, made_by="register").version == "1"


def test_neither_the_page_nor_the_registration_holds_credentials(project):
    """A password in a comment of params.yaml, which no check sees, and what follows the file in the store's address."""
    layout.PARAMS.write_text("registry: {}\n# tracking: {uri: postgresql://me:canary@host/mlflow}\n")
    uri = f"sqlite:///{project}/mlflow.db?timeout=17"
    run_id = store.connect(uri).create_run("0").info.run_id
    rewrite(Run, layout.RUN, run_id=run_id)
    register(REGISTRY, TRACKING.model_copy(update={"uri": uri}))
    (page,) = project.rglob("artifacts/params.yaml")
    assert page.read_text() == "registry: {}\n# tracking: {uri: postgresql://host/mlflow}\n"
    registration = layout.REGISTRATION.read_text()
    assert "canary" not in registration
    assert "timeout" not in registration


@pytest.mark.parametrize("path", [layout.RUN, layout.METRICS, layout.INDEX, layout.MODEL / export.CONFIG])
def test_what_is_missing_is_named_with_the_command_that_makes_it(project, path):
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"{path} does not exist; run `convoy (train|evaluate|shard)` first"):
        register(REGISTRY, TRACKING)


def test_figures_of_other_weights_are_refused(project):
    rewrite(Metrics, layout.METRICS, weights_sha256="0" * 64)
    with pytest.raises(ArtifactError, match=r"metrics\.json was measured on other weights \(000000000000\) than"):
        register(REGISTRY, TRACKING)


@pytest.mark.parametrize(("model", "path"), [(Run, layout.RUN), (Metrics, layout.METRICS)])
def test_another_data_set_is_refused(project, model, path):
    rewrite(model, path, index_digest="0" * 64)
    with pytest.raises(ArtifactError, match=rf"{path} belongs to another data set \(index 000000000000\) than"):
        register(REGISTRY, TRACKING)


def test_a_bad_name_is_refused_before_anything_is_opened(project):
    with pytest.raises(ParamsError, match="cannot be a model's name"):
        register(REGISTRY.model_copy(update={"model_name": "a/b"}), TRACKING)
    assert not (project / "history").exists()

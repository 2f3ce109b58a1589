"""Out of a real sqlite store comes the folder that went in, or a reason."""

import json
import shutil

import pytest

from pipeline.errors import ArtifactError, ModelError, TrackingError
from pipeline.registry import export, fetch, package
from pipeline.tracking import store


@pytest.fixture(scope="module")
def registered(client, uri, exported):
    """Its addresses: by alias, by version, by the run that logged it."""
    import mlflow

    experiment_id = store.find_or_create_experiment(client, uri, "convoy")
    run_id = client.create_run(experiment_id).info.run_id
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", uri)  # mlflow leaves it there, and other modules' tests read it
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=experiment_id)
        model_uri = package.log(exported, "model", run_id)
    client.create_registered_model("photos")
    client.create_model_version("photos", model_uri, run_id, model_id=model_uri.removeprefix("models:/"))
    client.set_registered_model_alias("photos", "champion", "1")
    return {"alias": "models:/photos@champion", "version": "models:/photos/1", "run": f"runs:/{run_id}/model"}


@pytest.mark.parametrize("kind", ["alias", "version", "run"])
def test_every_address_leads_to_the_export_that_was_registered(uri, registered, exported, kind, tmp_path):
    sha256 = fetch.fetch(uri, registered[kind], tmp_path / "weights")
    assert sha256 == export.read_facts(exported).weights_sha256
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [sha256]
    for name in (export.WEIGHTS, export.CONFIG):
        assert (tmp_path / "weights" / sha256 / name).read_bytes() == (exported / name).read_bytes()


def test_a_registry_that_mlflow_was_told_of_elsewhere_is_not_asked(uri, registered, exported, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/elsewhere.db")
    assert fetch.fetch(uri, registered["alias"], tmp_path / "weights") == export.read_facts(exported).weights_sha256
    assert not (tmp_path / "elsewhere.db").exists()


def test_the_same_again_is_the_same(uri, registered, tmp_path):
    assert len({fetch.fetch(uri, registered["alias"], tmp_path) for _ in range(2)}) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("address", ["models:/photos@nobody", "models:/nothing/1", "runs:/0123/model"])
def test_an_address_that_leads_nowhere_is_the_stores_word(uri, registered, address, tmp_path):
    with pytest.raises(TrackingError, match="The MLflow store"), store.translating(uri):
        fetch.fetch(uri, address, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_others_is_refused(uri, registered, tmp_path):
    import mlflow
    import mlflow.pyfunc

    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: list[str]) -> list[str]:
            return model_input

    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.log_model(name="other", python_model=Other(), pip_requirements=["mlflow"])
    with pytest.raises(ModelError, match=r"holds no model that Convoy exported; name one that `convoy register`"):
        fetch.fetch(uri, model.model_uri, tmp_path)


def test_a_damaged_one_is_refused(uri, exported, tmp_path):
    import mlflow

    mlflow.set_tracking_uri(uri)
    folder = shutil.copytree(exported, tmp_path / "export")
    config = json.loads((folder / export.CONFIG).read_text())
    config["convoy"]["weights_sha256"] = "0" * 64
    (folder / export.CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="is damaged"):
        fetch.fetch(uri, package.log(folder, "damaged", None), tmp_path / "weights")
    assert list((tmp_path / "weights").iterdir()) == []

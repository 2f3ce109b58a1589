"""Registration in a real sqlite store: versions, aliases, tags, the training run, and the served model from there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import registrable

from pipeline.errors import ArtifactError, ParamsError, TrackingError
from pipeline.registry import package
from pipeline.registry.classify import Classifier
from pipeline.registry.gate import Threshold
from pipeline.registry.register import check_name, register
from pipeline.tracking import store


@pytest.fixture(scope="module")
def experiment_id(client, uri):
    return store.find_or_create_experiment(client, uri, "convoy")


@pytest.fixture
def name(request):
    """A registered model of the test's own."""
    return request.node.name[:60].replace("[", "-").replace("]", "")


@pytest.fixture
def finished_run(client, experiment_id):
    run_id = client.create_run(experiment_id, run_name="trained").info.run_id
    client.log_param(run_id, "optimizer.lr", 0.1)
    client.set_terminated(run_id, "FINISHED")
    return run_id


@pytest.fixture
def models(write_export, tmp_path):
    """Exports that differ in their weights: folder and sha256 of each."""
    return [(tmp_path / f"model{seed}", write_export(tmp_path / f"model{seed}", seed=seed)) for seed in range(3)]


@pytest.fixture
def enter(client, uri, experiment_id, name):
    def enter(model, top1, run_id=None, index_digest=registrable.DIGEST, files=(), min_top1=0.9):
        folder, sha256 = model
        run = registrable.run(tracking_uri=uri, run_id=run_id, index_digest=index_digest)
        metrics = registrable.metrics(sha256, top1, index_digest)
        threshold = Threshold("top-1", "registry.min_top1", min_top1)
        return register(client, uri, experiment_id, folder, name, threshold, run, metrics, list(files))

    return enter


def aliases(client, name):
    return client.get_registered_model(name).aliases


def test_a_good_first_model_is_champion_with_its_lineage(client, name, enter, models, finished_run, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<html>")
    (tmp_path / "index.json").write_text("{}")
    before = client.get_run(finished_run).info
    registration = enter(models[0], 0.95, finished_run, files=[report, tmp_path / "index.json", tmp_path / "none"])

    assert (registration.version, registration.alias, registration.promoted) == ("1", "champion", True)
    assert (registration.champion_version, registration.run_id) == ("1", finished_run)
    assert {key: str(value) for key, value in aliases(client, name).items()} == {"champion": "1"}
    tags = client.get_model_version_by_alias(name, "champion").tags
    assert tags["weights_sha256"] == models[0][1]
    assert (tags["index_digest"], tags["fingerprint"], tags["run_id"]) == (registrable.DIGEST, "f" * 16, finished_run)
    assert (float(tags["top1"]), tags["verdict"]) == (0.95, "promoted")
    assert "at least registry.min_top1" in tags["reasons"]

    run = client.get_run(finished_run)
    assert (run.data.metrics["test/top1"], run.data.metrics["test/ece"]) == (0.95, 0.5)
    assert {each.path for each in client.list_artifacts(finished_run)} == {"report", "index.json"}
    assert [each.path for each in client.list_artifacts(finished_run, "report")] == ["report/report.html"]
    assert (run.info.status, run.info.end_time) == (before.status, before.end_time)
    assert len(run.outputs.model_outputs) == 1


def test_the_same_weights_again_change_nothing(client, name, enter, models, finished_run):
    first, again = enter(models[0], 0.95, finished_run), enter(models[0], 0.95, finished_run)
    assert again.version == first.version
    assert len(client.search_model_versions(f"name = '{name}'")) == 1
    assert len(client.get_metric_history(finished_run, "test/top1")) == 1
    assert again.reasons[1] == "Version 1 is the champion already."
    assert len(client.get_run(finished_run).outputs.model_outputs) == 1


def test_a_lower_figure_of_a_corrected_evaluation_is_the_one_that_is_shown(client, enter, models, finished_run):
    for top1 in (0.95, 0.92, 0.92):
        enter(models[0], top1, finished_run)
    assert client.get_run(finished_run).data.metrics["test/top1"] == 0.92


def test_a_kill_between_logging_and_version_leaves_no_second_model(
    client, name, enter, models, finished_run, monkeypatch
):
    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            enter(models[0], 0.95, finished_run)
    enter(models[0], 0.95, finished_run)
    assert len(client.get_run(finished_run).outputs.model_outputs) == 1


def test_a_model_that_was_half_logged_is_not_registered(client, experiment_id, name, enter, models, finished_run):
    tags = {"weights_sha256": models[0][1]}
    half = client.create_logged_model(experiment_id, source_run_id=finished_run, tags=tags)
    assert half.status == "PENDING"
    enter(models[0], 0.95, finished_run)
    assert half.model_id not in client.get_model_version(name, "1").source


def test_a_model_that_another_run_logged_is_not_taken_for_this_ones(
    client, experiment_id, name, enter, models, finished_run, monkeypatch
):
    other = client.create_run(experiment_id).info.run_id
    with monkeypatch.context() as patch:
        patch.setattr(type(client), "create_model_version", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            enter(models[0], 0.95, other)
    enter(models[0], 0.95, finished_run)
    model_id = client.get_model_version(name, "1").source.removeprefix("models:/")
    assert client.get_logged_model(model_id).source_run_id == finished_run


def test_another_machine_that_was_quicker_has_the_version(client, name, enter, models, finished_run, monkeypatch):
    create = type(client).create_model_version

    def create_second(self, model_name, source, run_id, tags, **more):
        create(self, model_name, source, run_id, tags, **more)
        return create(self, model_name, source, run_id, tags, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(client), "create_model_version", create_second)
        assert enter(models[0], 0.95, finished_run).version == "1"
    assert [version.version for version in client.search_model_versions(f"name = '{name}'")] == [1]


def test_the_same_weights_that_are_asked_of_mirror_images_are_another_version(
    name, enter, models, write_export, tmp_path
):
    twice = (tmp_path / "twice", write_export(tmp_path / "twice", seed=0, mirror=True))
    assert enter(models[0], 0.91).version == "1"
    assert enter(twice, 0.95).version == "2"
    assert enter(models[0], 0.91).version == "1"


def test_of_two_versions_of_the_same_weights_the_older_one_counts(client, name, enter, models):
    client.create_registered_model(name)
    for _ in range(2):
        client.create_model_version(name, "file:///nowhere", tags={"weights_sha256": models[0][1]})
    assert enter(models[0], 0.95).version == "1"


@pytest.mark.parametrize("method", ["get_run", "create_registered_model"])
def test_what_the_store_refuses_for_another_reason_is_told(client, enter, models, finished_run, monkeypatch, method):
    import mlflow.exceptions

    def refuse(*_, **__):
        raise mlflow.exceptions.MlflowException("not today", error_code=mlflow.exceptions.PERMISSION_DENIED)

    monkeypatch.setattr(type(client), method, refuse)
    with pytest.raises(mlflow.exceptions.MlflowException, match="not today"):
        enter(models[0], 0.95, finished_run)


def test_aliases_follow_the_verdicts(client, name, enter, models):
    def state():
        return {key: str(value) for key, value in aliases(client, name).items()}

    assert enter(models[0], 0.85).alias == "challenger"
    assert state() == {"challenger": "1"}
    assert enter(models[1], 0.95).alias == "champion"
    assert state() == {"champion": "2", "challenger": "1"}
    worse = enter(models[2], 0.93)
    assert (worse.version, worse.alias, worse.promoted, worse.champion_version) == ("3", "challenger", False, "2")
    assert state() == {"champion": "2", "challenger": "3"}
    assert enter(models[2], 0.96).promoted
    assert state() == {"champion": "3"}


def test_a_raised_threshold_does_not_leave_the_model_without_champion(client, name, enter, models):
    enter(models[0], 0.95)
    again = enter(models[0], 0.95, min_top1=0.99)
    assert (again.promoted, again.alias, again.champion_version) == (False, "champion", "1")
    assert client.get_model_version(name, "1").tags["verdict"] == "held back"
    assert {key: str(value) for key, value in aliases(client, name).items()} == {"champion": "1"}


def test_a_champion_registered_by_hand_is_no_measure(client, name, enter, models):
    client.create_registered_model(name)
    client.create_model_version(name, "file:///nowhere")
    client.set_registered_model_alias(name, "champion", "1")
    registration = enter(models[0], 0.95)
    assert (registration.version, registration.alias) == ("2", "champion")
    assert registration.reasons[1] == "There is no measured champion to compare with."


@pytest.mark.parametrize("state", ["unknown", "deleted"])
def test_a_run_that_the_store_does_not_have_is_left_out(client, name, enter, models, finished_run, state):
    if state == "deleted":
        client.delete_run(finished_run)
    registration = enter(models[0], 0.95, finished_run if state == "deleted" else "0" * 32)
    assert (registration.run_id, registration.alias) == (None, "champion")


def test_the_registered_model_answers_as_the_export_does(name, enter, models):
    import mlflow.pyfunc

    registration = enter(models[0], 0.95)
    model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    image = package._example(SimpleNamespace(input_px=80, num_channels=3, pixel_dtype="uint8"))
    good, bad = model.predict([image, b"no image"])
    expected = next(Classifier(models[0][0]).classify([image]))
    assert (good.label, good.probabilities, good.error) == (expected.label, expected.probabilities, "")
    assert (bad.label, bad.probabilities) == ("", {})
    assert "no image of a known format" in bad.error
    assert model.metadata.signature.inputs is not None
    assert registration.model_uri == f"models:/{name}/1"


def test_the_model_travels_with_short_pinned_requirements_and_only_the_code_it_needs(client, name, enter, models):
    import mlflow.artifacts

    enter(models[0], 0.95)
    source = client.get_model_version(name, "1").source
    folder = mlflow.artifacts.download_artifacts(source)
    lines = (Path(folder) / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in lines] == list(package.REQUIREMENTS)
    assert all(line.partition("==")[2] and "+" not in line for line in lines)
    code = {path.relative_to(folder).parts[2] for path in (Path(folder) / "code").rglob("*.py")}
    assert code == {"__init__.py", "artifacts.py", "errors.py", "imaging", "networks", "registry"}
    for unwanted in ("*.pkl", "*.so", "*.c", "*.h"):
        assert not list(Path(folder).rglob(unwanted))
    assert list(Path(folder).rglob("model.safetensors"))


def test_a_model_that_comes_back_damaged_is_not_registered(
    client, experiment_id, name, enter, models, finished_run, monkeypatch
):
    log = package.log

    def log_another(folder, name, run_id):
        return log(models[1][0], name, run_id)

    with monkeypatch.context() as patch:
        patch.setattr(package, "log", log_another)
        with pytest.raises(ArtifactError, match=r"fetched back from the store, answers .* run `convoy register` again"):
            enter(models[0], 0.95, finished_run)
    assert finished_run not in {model.source_run_id for model in client.search_logged_models([experiment_id])}
    assert enter(models[0], 0.95, finished_run).version == "1"


@pytest.mark.parametrize("bad", ["", "a/b", "a:b", "it's", " a", "a ", "cats 2.1"])
def test_a_name_that_cannot_be_used_is_refused(bad):
    with pytest.raises(ParamsError, match=r"registry\.model_name=.* cannot be a model's name; use letters"):
        check_name(bad)


@pytest.mark.parametrize("good", ["convoy-demo", "My cats 2", "été_1"])
def test_a_usual_name_is_accepted(good):
    check_name(good)


def test_a_dead_server_is_one_clear_error(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = "http://me:secret@127.0.0.1:9"
    client = store.connect(uri)
    with (
        pytest.raises(TrackingError, match=r"The MLflow store http://127\.0\.0\.1:9 cannot be used") as caught,
        store.translating(uri),
    ):
        store.find_or_create_experiment(client, uri, "convoy")
    assert "secret" not in str(caught.value)

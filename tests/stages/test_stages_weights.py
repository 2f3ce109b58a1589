"""What model.weights names becomes a local file, and a run is named after its bytes."""

import json
import multiprocessing
import shutil

import projects
import pytest
import safetensors.torch
import timm
import torch
from timm.models import _registry

from pipeline import params
from pipeline.errors import ModelError, TrackingError
from pipeline.registry import export, package
from pipeline.stages import weights
from pipeline.tracking import store
from pipeline.tracking.address import resolve

CLASSES = ["o", "x"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export") / "model"
    export.write(
        folder, timm.create_model("test_resnet", num_classes=2), backbone="test_resnet", classes=CLASSES, input_px=64,
        num_channels=3, mean=[0.5] * 3, std=[0.2] * 3,
    )  # fmt: skip
    return folder


def find(text, root, tracking_uri=None, options=None):
    sections = params.read(projects.REPOSITORY / "params.yaml")
    changes = {"backbone": "test_resnet", "options": options or {}, "weights": str(text)}
    model = sections["model"].model_copy(update=changes)
    tracking = sections["tracking"].model_copy(update={"uri": tracking_uri})
    return weights.find(model, 3, tracking, root)


def register(folder, root):
    import mlflow

    uri = resolve(None, root)
    client = store.connect(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    mlflow.set_experiment(experiment_id=store.find_or_create_experiment(client, uri, "convoy"))
    model_uri = package.log(folder, "model", None)
    client.create_registered_model("photos")
    client.create_model_version("photos", model_uri, model_id=model_uri.removeprefix("models:/"))
    client.set_registered_model_alias("photos", "champion", "1")
    return client


def test_none_is_nothing(tmp_path):
    assert find("none", tmp_path) is None


def test_a_relative_path_is_made_absolute(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(exported.parent)
    start = find("model", tmp_path)
    assert start.file == exported / "model.safetensors"
    assert start.classes == tuple(CLASSES)


def test_an_address_and_a_copy_are_the_same_start(exported, tmp_path):
    register(exported, tmp_path)
    start = find("models:/photos@champion", tmp_path)
    assert start.file.is_relative_to(tmp_path / "weights" / start.sha256)
    assert start.digest == find(shutil.copytree(exported, tmp_path / "copy"), tmp_path).digest


def test_a_store_that_is_away_leaves_what_an_address_meant_the_last_time(exported, tmp_path, capsys):
    register(exported, tmp_path)
    first = find("models:/photos@champion", tmp_path)
    (tmp_path / "mlflow.db").write_bytes(b"no database")
    assert find("models:/photos@champion", tmp_path) == first
    assert f"Going on with what models:/photos@champion was last time: {first.sha256[:12]}." in capsys.readouterr().err
    with pytest.raises(TrackingError, match="The MLflow store"):
        find("models:/photos/1", tmp_path)


def test_an_alias_that_is_gone_is_not_what_it_was_the_last_time(exported, tmp_path):
    client = register(exported, tmp_path)
    find("models:/photos@champion", tmp_path)
    client.delete_registered_model_alias("photos", "champion")
    with pytest.raises(TrackingError, match="champion not found"):
        find("models:/photos@champion", tmp_path)


@pytest.fixture
def timms_file(tmp_path, monkeypatch):
    """The file that timm fetches the pretrained weights of test_resnet from."""
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), path)
    theirs = _registry._model_pretrained_cfgs["test_resnet"]
    known = type(theirs)(**(theirs.to_dict() | {"file": str(path), "custom_load": False}))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, "test_resnet", known)
    return path


def test_without_a_network_pretrained_is_what_it_was_the_last_time(timms_file, tmp_path, capsys):
    first = find("pretrained", tmp_path)
    timms_file.unlink()
    assert capsys.readouterr().err == ""
    assert find("pretrained", tmp_path) == first
    said = capsys.readouterr().err
    assert "The pretrained weights of test_resnet could not be fetched (" in said
    assert f"Going on with what model.weights=pretrained was last time: {first.sha256[:12]}." in said


@pytest.mark.parametrize(("options", "is_kept"), [({"drop_path_rate": 0.1}, True), ({}, False)])
def test_pretrained_weights_that_are_neither_here_nor_there_are_refused(timms_file, tmp_path, options, is_kept):
    first = find("pretrained", tmp_path)
    timms_file.unlink()
    if not is_kept:
        first.file.unlink()
    with pytest.raises(ModelError, match="The pretrained weights of test_resnet could not be fetched"):
        find("pretrained", tmp_path, options=options)


def test_pretrained_weights_that_nobody_has_are_not_what_they_were_the_last_time(timms_file, tmp_path, monkeypatch):
    find("pretrained", tmp_path)
    known = _registry._model_pretrained_cfgs["test_resnet"]
    nowhere = type(known)(**(known.to_dict() | {"file": None, "hf_hub_id": None, "url": None}))
    monkeypatch.setitem(_registry._model_pretrained_cfgs, "test_resnet", nowhere)
    with pytest.raises(ModelError, match="there are no pretrained weights of test_resnet"):
        find("pretrained", tmp_path)


def test_weights_that_do_not_fit_are_refused_here_and_not_by_the_ranks(tmp_path):
    export.write(
        tmp_path / "model", timm.create_model("test_resnet", num_classes=2, channels=[32, 48, 48, 64]),
        backbone="test_resnet", classes=CLASSES, input_px=64, num_channels=3, mean=[0.5] * 3, std=[0.2] * 3,
    )  # fmt: skip
    with pytest.raises(ModelError, match="does not fit model"):
        find(tmp_path / "model", tmp_path)


def test_a_run_is_not_named_after_the_place_of_its_weights():
    model = params.read(projects.REPOSITORY / "params.yaml")["model"]
    named = [params.for_fingerprint(model.model_copy(update={"weights": text})) for text in ("models:/a@b", "/c")]
    assert named[0] == named[1]


def fetch_often(root, number, barrier):
    """In a process of its own: notes many addresses, one after the other."""
    from pipeline.registry import fetch

    fetch.fetch = lambda uri, address, folder: f"{number}"
    tracking = params.read(projects.REPOSITORY / "params.yaml")["tracking"]
    barrier.wait()
    for each in range(50):
        weights._fetch(f"models:/{number}-{each}/1", tracking, root, root / "weights")


def test_trials_that_look_at_once_lose_nothing_of_what_was_noted(tmp_path):
    context = multiprocessing.get_context("fork")
    store.connect(resolve(None, tmp_path))
    (tmp_path / "weights").mkdir()
    barrier = context.Barrier(2)
    processes = [context.Process(target=fetch_often, args=(tmp_path, number, barrier)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(json.loads((tmp_path / "weights" / weights.ADDRESSES).read_text())) == 100


def test_a_damaged_note_is_no_note(exported, tmp_path):
    register(exported, tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / weights.ADDRESSES).write_text("{")
    assert find("models:/photos@champion", tmp_path).classes == tuple(CLASSES)
    assert len(json.loads((tmp_path / "weights" / weights.ADDRESSES).read_text())) == 1

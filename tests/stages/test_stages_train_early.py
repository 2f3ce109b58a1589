"""A run that stops early, through the train stage: every place that tells of it says that and why."""

import csv
import json

import projects
import pytest
import shard_sets
import yaml

from pipeline import params
from pipeline.artifacts import Index, Run
from pipeline.errors import ParamsError
from pipeline.stages import layout
from pipeline.stages.ledger import ledger
from pipeline.stages.task import sections_of_task
from pipeline.stages.train import train


@pytest.fixture
def project(tmp_path, monkeypatch):
    """One that learns nothing, so that no epoch after the first is a gain."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = {
        "model": {"input_px": 32},
        "optimizer": {"lr": 1e-12},
        "training": {"epochs": 9, "patience_epochs": 2},
    }
    folder = projects.write(tmp_path / "project", projects.SMALL, changes)
    monkeypatch.chdir(folder)
    shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7]})
    return folder


def test_it_is_told_everywhere(project, capsys):
    train(**params.read(layout.PARAMS, sections_of_task()))
    said = capsys.readouterr().out
    run = Run.read(layout.RUN, made_by="train")
    assert run.ending.startswith("stopped early, after epoch 3 of 9: validation top-1 was highest in epoch 1 (")
    assert (run.num_epochs, run.exported_epoch) == (3, 1)
    assert f"run {run.fingerprint}: {run.ending}; " in said
    assert "| 2 of 2 epochs without gain" in said
    rows = list(csv.DictReader(layout.HISTORY.read_text().splitlines()))
    assert [row["epochs_without_gain"] for row in rows] == ["0", "1", "2"]
    assert run.validation["top1"] == float(rows[0]["validation_top1"])

    from pipeline.tracking import store

    page = store.connect(f"sqlite:///{project / 'mlflow.db'}").get_run(run.run_id)
    assert (page.data.tags["ending"], page.data.tags["exported_epoch"]) == (run.ending, "1")
    assert (page.info.status, page.data.metrics["val/epochs_without_gain"]) == ("FINISHED", 2.0)

    for name in (None, run.fingerprint, f"runs/{run.fingerprint}"):
        ledger(name)
        said = capsys.readouterr().out
        assert f"exact: {run.num_steps} of {3 * run.num_steps} steps committed" in said
        assert run.ending in said


def test_patience_needs_validation_samples(project):
    index = Index.read(layout.INDEX, made_by="shard")
    shard_sets.change(layout.INDEX, splits=index.splits | {"validation": []})
    with pytest.raises(
        ParamsError, match=r"training\.patience_epochs=2 waits for a gain on the validation split, and "
    ):
        train(**params.read(layout.PARAMS, sections_of_task()))


def test_a_plan_says_that_its_time_is_the_longest(project, capsys, monkeypatch):
    from pipeline.stages.plan import plan
    from pipeline.training import rehearsal

    monkeypatch.setattr(rehearsal, "NUM_BATCHES", 1)
    plan(as_json=False)
    assert "may end it" in " ".join(capsys.readouterr().out.split())
    content = yaml.safe_load(layout.PARAMS.read_text())
    content["training"]["patience_epochs"] = None
    layout.PARAMS.write_text(yaml.safe_dump(content, sort_keys=False))
    plan(as_json=True)
    assert json.loads(capsys.readouterr().out)["patience_epochs"] is None


def test_a_run_that_is_done_is_sent_to_the_store_that_is_named_now(project, tmp_path, monkeypatch):
    from pipeline.tracking import store

    train(**params.read(layout.PARAMS, sections_of_task()))
    before = Run.read(layout.RUN, made_by="train")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    for _ in range(2):
        train(**params.read(layout.PARAMS, sections_of_task()))
        run = Run.read(layout.RUN, made_by="train")
        assert run.tracking_uri == f"sqlite:///{tmp_path / 'other.db'}" != before.tracking_uri
        client = store.connect(run.tracking_uri)
        (page,) = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
        assert (page.info.run_id, page.info.status) == (run.run_id, "FINISHED")
        assert len(client.get_metric_history(run.run_id, "train/loss")) == run.num_steps
        assert page.data.tags["ending"] == before.ending


def test_a_run_that_is_refused_leaves_no_page(project):
    from pipeline.tracking import store

    sections = params.read(layout.PARAMS, sections_of_task())
    sections["loading"] = sections["loading"].model_copy(update={"global_batch_size": 64})
    with pytest.raises(ParamsError, match=r"loading\.global_batch_size=64 is more than the 43 training samples"):
        train(**sections)
    client = store.connect(f"sqlite:///{project / 'mlflow.db'}")
    assert client.get_experiment_by_name("convoy") is None

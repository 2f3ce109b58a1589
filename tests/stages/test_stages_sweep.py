"""A sweep on a real Ray: trials are runs of their own, the best is a recipe, and the same sweep again goes on."""

import csv
import re

import projects
import pytest
import shard_sets

from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ConvoyError, TrainingError
from pipeline.launch.tune import Outcome
from pipeline.stages import layout, recipe, sweep
from pipeline.stages.task import is_done
from pipeline.stages.trial import task_with

SPACE = "optimizer.lr: {log: [0.0001, 0.1]}\ntraining.label_smoothing: {choice: [0.0, 0.1]}\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = {"model": {"input_px": 32}, "training": {"epochs": 3}}
    folder = projects.write(tmp_path / "project", projects.SMALL, changes)
    monkeypatch.chdir(folder)
    shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7]})
    (folder / "space.yaml").write_text(SPACE)
    return folder


def trials():
    with layout.SWEEP_TRIALS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_trials_are_runs_under_one_page_and_the_best_is_a_recipe(project, capsys):
    from pipeline.tracking import store

    before = (project / "params.yaml").read_text()
    sweep.sweep(project / "space.yaml", num_trials=3, grace_epochs=1, cores=1, seed=0, with_optuna=False)
    rows = trials()
    assert len(rows) == 3
    assert len({row["optimizer.lr"] for row in rows}) == 3
    assert any(row["epochs"] == "3" for row in rows)
    client = store.connect(f"sqlite:///{project}/mlflow.db")
    [experiment] = [each for each in client.search_experiments() if each.name == "convoy"]
    runs = client.search_runs([experiment.experiment_id])
    [page] = [run for run in runs if run.info.run_name == "sweep"]
    children = [run for run in runs if run is not page]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {page.info.run_id}
    assert len(children) == 3
    assert page.info.status == "FINISHED"
    assert page.data.params["search optimizer.lr"] == "0.0001 to 0.1, by the logarithm"
    best = max((row for row in rows if row["epochs"] == "3"), key=lambda row: float(row["validation_top1"]))
    assert page.data.metrics["val/top1"] == float(best["validation_top1"])
    ended = {run.data.params["optimizer.lr"]: run.info.status for run in children}
    assert ended == {row["optimizer.lr"]: "FINISHED" if row["epochs"] == "3" else "KILLED" for row in rows}

    said = capsys.readouterr().out
    assert len(re.findall(r"^trial \d ends: ", said, re.MULTILINE)) == 3
    recipe.recipe("data/sweep/best.yaml")
    assert f"optimizer.lr: 0.003 -> {best['optimizer.lr']}" in capsys.readouterr().out
    assert is_done(task_with({}).run), "the best would have to be trained again"

    weights = {path: path.stat().st_mtime_ns for path in project.glob("runs/*/weights.safetensors")}
    recipe_text = layout.SWEEP_BEST.read_text()
    (project / "params.yaml").write_text(before)
    sweep.sweep(project / "space.yaml", num_trials=3, grace_epochs=1, cores=1, seed=0, with_optuna=False)
    assert layout.SWEEP_BEST.read_text() == recipe_text
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert len(client.search_runs([experiment.experiment_id])) == 4


def outcome(score, num_epochs, problem=None):
    return Outcome({"optimizer.lr": 0.1}, score, num_epochs, problem)


def test_the_best_is_one_that_was_trained_to_the_end():
    outcomes = [outcome(0.99, 1), outcome(0.7, 3), outcome(0.8, 3), outcome(None, 0, "failed")]
    assert sweep.choose(outcomes) is outcomes[2]


def test_without_a_score_the_first_problem_is_told():
    with pytest.raises(TrainingError, match=r"None of 2 trials came to an epoch's end; the first failed so: no memory"):
        sweep.choose([outcome(None, 0), outcome(None, 0, "no memory")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizer.lrr: {log: [0.1, 1.0]}", r"optimizer\.lrr: 0\.1 is refused: .*lrr is not a key"),
        ("training.ema_decay: {uniform: [0.5, 1.5]}", r"training\.ema_decay: 1\.5 is refused"),
        ("model.backbone: {choice: [test_resnet, resnot]}", r"resnot is refused: .*not a model"),
    ],
)
def test_what_a_trial_would_be_refused_for_is_refused_before_the_first(project, text, said):
    (project / "space.yaml").write_text(text)
    with pytest.raises(ConvoyError, match=f"(?s){said}"):
        sweep.sweep(project / "space.yaml", num_trials=3, grace_epochs=1, cores=1, seed=0, with_optuna=False)
    assert not (project / "runs").exists()


def test_a_sweep_needs_validation_samples(project):
    index = Index.read(layout.INDEX, made_by="shard")
    index.model_copy(update={"splits": index.splits | {"validation": []}}).write(layout.INDEX)
    with pytest.raises(ArtifactError, match=r"has no validation samples, and a sweep compares validation figures"):
        sweep.sweep(project / "space.yaml", num_trials=3, grace_epochs=1, cores=1, seed=0, with_optuna=False)

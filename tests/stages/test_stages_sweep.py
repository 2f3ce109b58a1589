"""A sweep on a real Ray: trials are runs of their own, the best is a recipe, and the same sweep again goes on."""

import concurrent.futures
import contextlib
import csv
import re
import threading

import projects
import pytest
import shard_sets

from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ConvoyError, TrackingError, TrainingError
from pipeline.launch import tune
from pipeline.launch.tune import Outcome
from pipeline.stages import layout, recipe, sweep
from pipeline.stages.task import is_done
from pipeline.stages.trial import Scores, run_trial, task_with

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


@pytest.mark.parametrize(
    ("keeps_best", "told"),
    [(True, [(1, 0.5), (2, 0.7), (3, 0.7), (9, 0.7)]), (False, [(1, 0.5), (2, 0.7), (3, 0.6), (9, 0.7)])],
)
def test_a_run_that_ended_early_stands_at_its_full_length_with_its_best(keeps_best, told):
    heard = []
    scores = Scores(lambda epoch, score: heard.append((epoch, score)), keeps_best=keeps_best)
    for epoch, top1 in enumerate([0.5, 0.7, 0.6], 1):
        scores.tell(epoch, top1)
    scores.end(9)
    assert heard == told
    scores.tell(9, 0.1)
    scores.end(9)
    assert len(heard) == len(told) + 1


def test_without_a_score_the_first_problem_is_told():
    outcomes = [outcome(None, 0), outcome(None, 0, "no memory"), outcome(None, 0, "no luck")]
    with pytest.raises(TrainingError, match=r"None of 3 trials came to an epoch's end; the first failed so: no memory"):
        sweep.choose(outcomes)


@pytest.fixture
def scripted(project, monkeypatch):
    """Sweeps whose search comes to these outcomes, or to this exception; gives what the search was asked for."""

    def scripted(found, **more):
        asked = {}

        def search(trial, space, **how):
            asked.update(how, page=trial.args[1])
            if isinstance(found, BaseException):
                raise found
            return found

        monkeypatch.setattr(tune, "search", search)
        how = {"num_trials": 3, "grace_epochs": 1, "cores": 1, "seed": 0, "with_optuna": False} | more
        with contextlib.suppress(TrainingError, KeyboardInterrupt):
            sweep.sweep(project / "space.yaml", **how)
        return asked

    return scripted


@pytest.mark.parametrize(
    ("found", "status", "figures"),
    [
        ([outcome(0.7, 3), outcome(0.9, 2)], "FINISHED", {"val/top1": 0.7}),
        ([outcome(None, 0, "no luck")], "FAILED", {}),
        (KeyboardInterrupt(), "KILLED", {}),
    ],
    ids=["well", "without a score", "interrupted"],
)
def test_the_page_ends_as_the_sweep_did_and_goes_on_with_it(project, scripted, found, status, figures):
    from pipeline.tracking import store

    page_id = scripted(found)["page"]
    page = store.connect(f"sqlite:///{project}/mlflow.db").get_run(page_id)
    assert (page.info.status, page.data.metrics) == (status, figures)
    assert scripted(found, num_trials=9)["page"] == page_id


def test_a_run_that_cannot_be_sent_leaves_the_page_its_end(project, scripted, capsys):
    from pipeline.tracking import store
    from pipeline.tracking.run import Dataset, next_attempt

    data = Dataset(name="train", digest="d" * 64, class_counts={})
    (project / "runs/unrelated").mkdir(parents=True)
    next_attempt(project / "runs/unrelated", "http://another.example", "convoy", "run", {}, {}, data)
    page_id = scripted([outcome(0.7, 3)])["page"]
    page = store.connect(f"sqlite:///{project}/mlflow.db").get_run(page_id)
    assert (page.info.status, page.data.metrics) == ("FINISHED", {"val/top1": 0.7})
    said = " ".join(capsys.readouterr().out.split())
    assert "unrelated belongs to the store http://another.example" in said
    assert "`convoy track sync` sends what waits." in said


def test_a_page_that_cannot_be_ended_is_told_with_the_way_to_end_it(scripted, monkeypatch, capsys):
    from pipeline.tracking import parent

    def refuse(*_):
        raise TrackingError("The store is gone.")

    monkeypatch.setattr(parent, "close_parent", refuse)
    scripted([outcome(0.7, 3)])
    said = capsys.readouterr().out
    assert "The store is gone. The sweep's page in MLflow says RUNNING until the same sweep runs again." in said
    assert "convoy track sync" not in said


def test_another_sweep_has_a_page_of_its_own(project, scripted):
    pages = [scripted([outcome(0.7, 3)], seed=seed)["page"] for seed in (0, 1)]
    (project / "space.yaml").write_text(SPACE.replace("0.0001", "0.0002"))
    pages.append(scripted([outcome(0.7, 3)])["page"])
    assert len(set(pages)) == 3


def test_the_grace_ends_with_the_run(project, scripted):
    assert scripted([outcome(0.7, 3)], grace_epochs=9)["grace_epochs"] == 3


def test_without_a_store_the_search_goes_on(project, scripted, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert scripted([outcome(0.7, 3)])["page"] is None
    assert "cannot be used" in capsys.readouterr().out
    assert layout.SWEEP_BEST.exists()


def test_the_table_begins_with_the_best(project, scripted, capsys):
    scripted([outcome(0.9, 1), outcome(0.7, 3), outcome(None, 0, "no luck"), outcome(0.8, 3)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "0.1" in line]
    assert [row[0] for row in rows] == ["4", "2", "1", "3"]
    assert [(row["trial"], row["validation_top1"], row["problem"]) for row in trials()][2:] == [
        ("3", "", "no luck"), ("4", "0.8", ""),
    ]  # fmt: skip


def test_of_two_trials_of_the_same_values_the_second_tells_what_the_first_came_to(project):
    values = {"optimizer.lr": 0.01}
    told, is_training, go_on = ([], []), threading.Event(), threading.Event()

    def report(epoch, score):
        told[0].append((epoch, score))
        is_training.set()
        assert go_on.wait(60)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(run_trial, project, None, 1, values, report)
        assert is_training.wait(60)
        second = pool.submit(run_trial, project, None, 1, values, lambda *each: told[1].append(each))
        concurrent.futures.wait([second], timeout=1.0)
        assert told[1] == []
        go_on.set()
        first.result(60), second.result(60)
    assert [epoch for epoch, _ in told[0]] == [1, 2, 3]
    assert told[1] == told[0]
    assert is_done(task_with(values).run)


def test_a_wish_to_stop_that_an_earlier_command_left_does_not_end_a_trial(project):
    values, told = {"optimizer.lr": 0.01}, []
    run = task_with(values).run
    run.path.mkdir(parents=True)
    run.stop.touch()
    run_trial(project, None, 1, values, lambda *each: told.append(each))
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert is_done(run)


def test_a_trial_that_is_stopped_says_so_and_its_page_too(project):
    from pipeline.tracking import store

    values, told = {"optimizer.lr": 0.01}, []
    run = task_with(values).run

    def report(epoch, score):
        told.append(epoch)
        run.stop.touch()

    message = rf"The trial {run.path.name} was stopped by {run.stop} and came to no result; run the same sweep again"
    with pytest.raises(TrainingError, match=message):
        run_trial(project, None, 1, values, report)
    assert told == [1]
    client = store.connect(f"sqlite:///{project}/mlflow.db")
    (page,) = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
    assert page.info.status == "KILLED"
    run_trial(project, None, 1, values, lambda epoch, score: told.append(epoch))
    assert told == [1, 1, 2, 3]
    assert client.get_run(page.info.run_id).info.status == "FINISHED"


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
    shard_sets.change(layout.INDEX, splits=index.splits | {"validation": []})
    with pytest.raises(ArtifactError, match=r"has no validation samples, and a sweep compares validation figures"):
        sweep.sweep(project / "space.yaml", num_trials=3, grace_epochs=1, cores=1, seed=0, with_optuna=False)

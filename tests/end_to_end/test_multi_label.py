"""The whole job on pictures with any number of shapes in them, or none: from a table of lists to the registry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import projects
import pyarrow.parquet as pq
import pytest
import shape_pictures
from sklearn.metrics import average_precision_score, f1_score

from pipeline.artifacts import Index, Registration, read_history
from pipeline.metrics import MultiLabelMetrics, read_metrics
from pipeline.registry import export
from pipeline.registry.classify import Classifier
from pipeline.stages.predict import predict

NUM_PICTURES = 480

# One process, because each stage's imports take longer than its work here.
STAGES = """
from pipeline.__main__ import app
for stage in ("scan", "shard", "verify", "train", "evaluate", "register"):
    app([stage], standalone_mode=False)
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(projects.REPOSITORY)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    changes = {
        "data": {"source": shape_pictures.write(folder / "images", NUM_PICTURES)},
        "augment": {"crop_scale": [0.9, 1.0], "color_jitter": 0.0},
        "model": {"input_px": shape_pictures.SIDE_PX, "mirror": True},
        "training": {"epochs": 6, "loss": "bce", "balance": "class_weights", "label_smoothing": 0.05},
        "registry": {"model_name": "shapes", "min_mean_ap": 0.9},
    }
    projects.write(folder / "project", projects.SMALL, changes)
    (folder / "project/data").mkdir()
    done = python(folder / "project", "-c", STAGES)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "project/said").write_text(done.stdout)
    return folder / "project"


@pytest.fixture(scope="module")
def metrics(project) -> MultiLabelMetrics:
    return read_metrics(project / "data/report/metrics.json")


@pytest.fixture(scope="module")
def predictions(project) -> list[dict]:
    return pq.read_table(project / "data/report/predictions.parquet").to_pylist()


def truth(predictions: list[dict]) -> np.ndarray:
    """What was drawn, by the names of the files alone."""
    names = [shape_pictures.names_in(int(Path(row["path"]).stem)) for row in predictions]
    return np.array([[name in each for name in shape_pictures.CLASSES] for each in names], int)


def test_it_learns_which_shapes_are_there(metrics, predictions):
    assert metrics.mean_ap >= 0.9
    probabilities_NK = np.array([row["probabilities"] for row in predictions])
    drawn_NK = truth(predictions)
    assert metrics.mean_ap == pytest.approx(average_precision_score(drawn_NK, probabilities_NK, average="macro"))
    for label, name in enumerate(shape_pictures.CLASSES):
        expected = average_precision_score(drawn_NK[:, label], probabilities_NK[:, label])
        assert metrics.per_class[name]["ap"] == pytest.approx(expected)
        assert metrics.per_class[name]["support"] == drawn_NK[:, label].sum()
    # Labels that were shifted by one class would not have passed.
    assert average_precision_score(np.roll(drawn_NK, 1, axis=1), probabilities_NK, average="macro") < 0.8


def test_what_it_says_follows_from_thresholds_that_validation_chose(project, metrics, predictions):
    thresholds = export.load(project / "data/model").thresholds
    assert [metrics.per_class[name]["threshold"] for name in shape_pictures.CLASSES] == thresholds
    assert export.load(project / "data/model").mirror
    probabilities_NK = np.array([row["probabilities"] for row in predictions])
    drawn_NK, said_NK = truth(predictions), probabilities_NK >= thresholds
    assert [np.flatnonzero(said_K).tolist() for said_K in said_NK] == [row["predicted"] for row in predictions]
    assert metrics.micro_f1 == pytest.approx(f1_score(drawn_NK, said_NK, average="micro"))
    assert metrics.macro_f1 == pytest.approx(f1_score(drawn_NK, said_NK, average="macro"))
    assert metrics.exact_match == pytest.approx((drawn_NK == said_NK).all(axis=1).mean())
    assert metrics.exact_match > 0.6


def test_the_run_is_judged_by_mean_average_precision(project, metrics):
    history = read_history(project / "data/history.csv")
    assert np.isfinite(history["validation_mean_ap"]).all()
    assert np.isnan(history["validation_top1"]).all()
    assert history["validation_mean_ap"][-1] > 0.9
    said = (project / "said").read_text()
    assert "multi-label: an image has any number of classes; 60 have none" in said
    assert "validation mAP 0.9" in said or "validation mAP 1.0" in said
    assert "evaluate: mAP" in said
    index = Index.read(project / "data/shards/index.json", "shard")
    assert metrics.num_samples == index.num_samples("test")


def test_the_report_shows_what_makes_sense_and_nothing_else(project):
    page = (project / "data/report/report.html").read_text(encoding="utf-8")
    assert "mean average precision of" in page
    assert all(f'id="{name}"' in page for name in ("training", "classes", "audit", "data", "run"))
    assert not any(f'id="{name}"' in page for name in ("confusion", "confidence"))
    assert not (project / "data/report/confusion.csv").exists()
    assert "<dt>Looks at</dt><dd>image and mirror image</dd>" in page


def test_it_is_registered_as_champion_and_answers_with_a_list(project, metrics):
    registration = Registration.read(project / "data/registration.json", "register")
    assert (registration.alias, registration.promoted, registration.top1) == ("champion", True, None)
    assert registration.mean_ap == metrics.mean_ap
    assert f"Test mAP {metrics.mean_ap:.4f} over" in registration.reasons[0]
    assert "at least registry.min_mean_ap=0.9." in registration.reasons[0]

    images = [shape_pictures.draw(number) for number in range(1000, 1040)]
    answers = list(Classifier(project / "data/model").classify(images))
    drawn = [sorted(shape_pictures.names_in(number)) for number in range(1000, 1040)]
    assert np.mean([sorted(each.labels) == names for each, names in zip(answers, drawn, strict=True)]) > 0.6
    for each in answers:
        chances = [each.probabilities[name] for name in each.labels]
        assert chances == sorted(chances, reverse=True)
        assert list(each.probabilities) == list(shape_pictures.CLASSES)


def test_predict_prints_all_labels(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    Path("all.jpg").write_bytes(shape_pictures.draw(2007))
    Path("none.jpg").write_bytes(shape_pictures.draw(2008))
    predict([Path("all.jpg"), Path("none.jpg")], as_json=True)
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert set(answers[0]["probabilities"]) == set(shape_pictures.CLASSES)
    predict([Path("all.jpg"), Path("none.jpg")])
    table = capsys.readouterr().out
    for answer in answers:
        assert (", ".join(answer["labels"]) or "(none)") in table
        assert all(f"{answer['probabilities'][name]:.4f}" in table for name in answer["labels"])

"""What the stages refuse, and show, of a multi-label set before anything is trained."""

import projects
import pytest
import shard_sets

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ParamsError
from pipeline.stages import browse, layout
from pipeline.stages.order import order
from pipeline.stages.scout import scout
from pipeline.stages.task import describe, sections_of_task

LABELS = [[[0], [1], [0, 1], []][number % 4] for number in range(80)]


def project(folder, monkeypatch, **changes) -> Index:
    bce = {"training": {"loss": "bce"}, "model": {"input_px": 32}}
    projects.write(folder, projects.SMALL, bce, changes)
    if not (folder / layout.SHARDS).exists():
        sizes = {"train": [30, 30], "validation": [10], "test": [10]}
        shard_sets.write(folder / layout.SHARDS, sizes, labels=LABELS)
    monkeypatch.chdir(folder)
    return Index.read(layout.INDEX, "shard")


def described(index: Index):
    return describe(index, **params.read(layout.PARAMS, sections_of_task()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": {"loss": "cross_entropy"}},
            r"training\.loss=cross_entropy takes an image for one of its classes",
        ),
        ({"training": {"loss": "bce", "balance": "logit_adjustment"}}, r"training\.balance=logit_adjustment weighs"),
        ({"loading": {"sampling": "balanced"}}, r"loading\.sampling=balanced draws .* use sampling: uniform, and"),
    ],
)
def test_params_that_are_for_one_class_an_image_are_refused(tmp_path, monkeypatch, changes, message):
    index = project(tmp_path, monkeypatch, **changes)
    with pytest.raises(ParamsError, match=message):
        described(index)


def test_the_same_params_are_a_run_otherwise(tmp_path, monkeypatch):
    assert described(project(tmp_path, monkeypatch)).training.loss == "bce"


def test_a_validation_split_without_any_class_is_refused(tmp_path, monkeypatch):
    index = project(tmp_path, monkeypatch)
    splits = {**index.splits, "validation": [index.splits["validation"][0].model_copy(update={"class_counts": [0, 0]})]}
    with pytest.raises(ParamsError, match=r"None of the 10 validation samples of .* has a class, so validation mAP"):
        described(index.model_copy(update={"splits": splits}))


def test_order_prints_a_plan_and_refuses_a_balanced_one(tmp_path, monkeypatch, capsys):
    project(tmp_path, monkeypatch)
    order("train", 0, 1, 0, 0, 2)
    assert len(capsys.readouterr().out.splitlines()) == 2
    project(tmp_path, monkeypatch, loading={"sampling": "balanced"})
    with pytest.raises(ParamsError, match="any number of them; use sampling: uniform"):
        order("train", 0, 1, 0, 0, 2)


def test_scout_names_another_way(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch)
    with pytest.raises(ArtifactError, match=r"is a multi-label set, .* compare backbones by short runs"):
        scout(["test_resnet"], 20, as_json=True)


def test_the_contact_sheet_shows_a_picture_under_all_its_classes_and_those_without_one(tmp_path, monkeypatch, capsys):
    project(tmp_path, monkeypatch)
    browse.browse("train", num_per_class=50, num_epochs=0)
    assert "75 samples of 2 of 2 classes" in capsys.readouterr().out
    page = layout.CONTACT_SHEET.read_text(encoding="utf-8")
    assert "(no class)" in page
    assert page.count('<img src="data:image/jpeg;base64,') == 75

"""`convoy predict` on real files: folders, broken files, odd names; no MLflow in sight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pipeline.errors import ArtifactError, ImageError, SourceError
from pipeline.registry import export
from pipeline.stages import layout
from pipeline.stages.predict import predict


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    export.write(
        layout.MODEL,
        timm.create_model("test_resnet", num_classes=2),
        backbone="test_resnet",
        classes=["[bold]o", "[red]x"],
        input_px=32,
        num_channels=3,
        mean=[0.5] * 3,
        std=[0.2] * 3,
    )
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a [red].jpg", "deep/c.jpg", ".hidden.jpg"]):
        pixels = np.full((40, 50, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path


def json_lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder_s_files_are_answered_in_order(project, capsys):
    predict([project / "photos" / "deep" / "c.jpg", project / "photos"], as_json=True)
    lines = json_lines(capsys)
    names = [line["path"].removeprefix(f"{project}/photos/") for line in lines]
    assert names == ["deep/c.jpg", "a [red].jpg", "b.png", "deep/c.jpg"]
    for line in lines:
        assert sum(line["probabilities"].values()) == pytest.approx(1.0)
        assert line["probability"] == line["probabilities"][line["label"]]
    assert lines[0] == lines[3]


def test_the_table_shows_names_as_they_are(project, capsys, monkeypatch):
    monkeypatch.chdir(project / "photos")
    monkeypatch.setattr(layout, "MODEL", project / layout.MODEL)
    predict([Path("a [red].jpg")], as_json=True)
    [expected] = json_lines(capsys)
    predict([Path("a [red].jpg")])
    out = capsys.readouterr().out
    assert "a [red].jpg" in out
    assert expected["label"] in out
    assert f"{expected['probability']:.4f}" in out


@pytest.mark.parametrize("as_json", [False, True])
def test_what_cannot_be_read_costs_the_others_nothing_but_the_exit_code(project, capsys, as_json):
    (project / "text.jpg").write_text("no image")
    paths = [project / "none.jpg", project / "text.jpg", project / "photos" / "b.png"]
    with pytest.raises(ImageError, match=r"2 of 3 files could not be read as images; see above\."):
        predict(paths, as_json)
    if as_json:
        missing, text, good = json_lines(capsys)
        assert missing["error"] == "The file cannot be read: No such file or directory."
        assert "error" in text
        assert "label" in good
    else:
        assert capsys.readouterr().out.count("not answered") == 2


def test_a_name_that_is_no_text_is_shown_reversibly(project, capsys):
    name = os.fsencode(project / "photos") + b"/\xff.png"
    os.rename(os.fsencode(project / "photos" / "b.png"), name)  # noqa: PTH104 - pathlib takes no bytes
    predict([project / "photos"], as_json=True)
    assert any(line["path"].endswith("\\xff.png") for line in json_lines(capsys))


def test_no_file_at_all_is_an_error(project):
    (project / "empty").mkdir()
    with pytest.raises(SourceError, match=r"No file in .*/empty; name images, or folders that hold some"):
        predict([project / "empty"])


def test_no_model_is_an_error(project):
    (project / layout.MODEL / export.CONFIG).unlink()
    with pytest.raises(ArtifactError, match="run `convoy train` first"):
        predict([project / "photos"])


def test_mlflow_is_not_imported(project):
    code = (
        "import sys, pathlib\nfrom pipeline.stages.predict import predict\n"
        "predict([pathlib.Path('photos')], as_json=True)\nassert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, stdout=subprocess.DEVNULL)

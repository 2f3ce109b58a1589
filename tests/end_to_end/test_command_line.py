"""The commands as a person meets them: real processes, their exit codes, and what they say when something is wrong."""

import os
import shutil
import subprocess
import sys

import image_folders
import projects
import pytest
from small_disks import grow, small_disk


def convoy(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(projects.REPOSITORY)} | environment,
        capture_output=True,
        text=True,
    )


def left(folder):
    """What lies under data/, but for the locks, which hold nothing."""
    return sorted(
        str(path.relative_to(folder)) for path in (folder / "data").rglob("*") if not path.name.endswith(".lock")
    )


@pytest.fixture
def photos(tmp_path):
    return image_folders.two_classes(tmp_path / "photos")


def source(value):
    return {"data": {"source": str(value)}}


def refused(folder, stage, wanted):
    """One message with these words, exit 1, no traceback, and nothing under data/ that was not there."""
    before = left(folder)
    done = convoy(folder, stage)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for words in wanted:
        assert words in done.stderr
    assert left(folder) == before


def test_a_folder_that_does_not_exist(tmp_path):
    folder = projects.write(tmp_path / "project", source(tmp_path / "nowhere"))
    refused(folder, "scan", [f"data.source={tmp_path / 'nowhere'}", "does not exist"])


def test_an_empty_folder(tmp_path):
    (tmp_path / "photos").mkdir()
    refused(projects.write(tmp_path / "project", source(tmp_path / "photos")), "scan", ["holds no", "class"])


def test_one_class_only(tmp_path, photos):
    shutil.rmtree(photos / "dog")
    refused(
        projects.write(tmp_path / "project", source(photos)),
        "scan",
        ["has one class only, 'cat'; a classifier needs at least two"],
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            ("lanes: 1", "lane: 1"),
            ["loading.lane is not a key; did you mean lanes? the valid ones are global_batch_size, lanes"],
        ),
        (("epochs: 1", "epochs: ten"), ["training.epochs='ten': input should be a valid integer"]),
        (("lanes: 1", "lanes: [1"), ["params.yaml, line ", " is not YAML"]),
    ],
)
def test_params_with_a_mistake(tmp_path, change, wanted):
    folder = projects.write(tmp_path / "project", projects.SMALL)
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    (folder / "params.yaml").write_text(text.replace(*change), encoding="utf-8")
    (folder / "data").mkdir()
    refused(folder, "scan", wanted)


def test_a_backbone_that_timm_does_not_have(tmp_path, photos):
    folder = projects.write(tmp_path / "project", projects.SMALL, source(photos), {"model": {"backbone": "resnet81"}})
    for stage in ("scan", "shard"):
        assert convoy(folder, stage).returncode == 0
    refused(folder, "train", ["model.backbone=resnet81 is not a model of timm", "did you mean", "resnet18"])
    assert not (folder / "runs").exists()


def test_a_full_disk(tmp_path, photos):
    folder = projects.write(tmp_path / "project", projects.SMALL, source(photos))
    with small_disk(folder / "data", "64k"):
        assert convoy(folder, "scan").returncode == 0
        done = convoy(folder, "shard")
        assert done.returncode == 1, done.stderr
        assert f"The disk of {folder / 'data'} is full" in done.stderr
        assert "Free some space and run the same command again." in done.stderr
        assert not (folder / "data" / "shards").exists()
        assert not (folder / "data" / "audit.json").exists()
        grow(folder / "data", "16m")
        assert convoy(folder, "shard").returncode == 0
        assert convoy(folder, "verify").returncode == 0


def test_a_stage_without_its_input_names_the_stage_to_run_first(tmp_path):
    folder = projects.write(tmp_path / "project", projects.SMALL)
    for stage, first in [("shard", "scan"), ("train", "shard"), ("evaluate", "shard"), ("register", "train")]:
        done = convoy(folder, stage)
        assert done.returncode == 1, (stage, done.stderr)
        assert f"does not exist; run `convoy {first}` first" in done.stderr, stage


def test_wrong_usage_is_2(tmp_path):
    done = convoy(tmp_path, "sacn")
    assert done.returncode == 2
    assert "No such command 'sacn'" in done.stderr


def test_a_bug_of_ours_is_70_with_its_traceback(tmp_path):
    folder = projects.write(tmp_path / "project", projects.SMALL)
    (folder / "sitecustomize.py").write_text("import pipeline.params\ndel pipeline.params.read\n")
    done = convoy(folder, "scan", PYTHONPATH=f"{folder}{os.pathsep}{projects.REPOSITORY}")
    assert done.returncode == 70
    assert "AttributeError" in done.stderr
    assert "This is a bug of Convoy" in done.stderr


def test_outside_a_project_params_are_missed_with_a_hint(tmp_path):
    refused_here = convoy(tmp_path, "scan")
    assert refused_here.returncode == 1
    assert "params.yaml does not exist; run in the repository's root" in refused_here.stderr

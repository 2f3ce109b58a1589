"""The whole job on images of five channels and sixteen bits, where only the last channel says what the label is."""

import json
import os
import subprocess
import sys

import bands
import image_folders
import numpy as np
import projects
import pytest
from tiffs import DEFLATE, tiff

from pipeline.artifacts import Index, Run
from pipeline.imaging.arrays import encode_array
from pipeline.registry import export

NUM_PER_CLASS, SIDE_PX = 80, 32

# One process, because each stage's imports take longer than its work here.
STAGES = """
from pipeline.__main__ import app
for stage in ("scan", "shard", "train", "evaluate", "register"):
    app([stage], standalone_mode=False)
"""


def drawn(number: int, class_name: str) -> np.ndarray:
    """A bar, lying or standing, in the last of five noisy channels; sensors of 12 bits leave the upper four empty."""
    random = np.random.default_rng([number, len(class_name)])
    image_HWC = random.integers(0, 1500, (SIDE_PX, SIDE_PX, 5), np.uint16)
    at, width = random.integers(6, SIDE_PX - 10), random.integers(3, 7)
    bar = (slice(at, at + width), slice(4, -4))
    image_HWC[(*(bar if class_name == "lying" else bar[::-1]), 4)] += np.uint16(2000)
    return image_HWC


def python(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(projects.REPOSITORY)},
        capture_output=True,
        text=True,
    )


def git(folder, command):
    done = subprocess.run(["git", *command.split()], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def convoy(folder, *arguments):
    return python(folder, "-m", "pipeline", *arguments)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in which all stages have run on them: arrays of one class, TIFFs of both."""
    folder = tmp_path_factory.mktemp("five")
    files = {}
    for number in range(NUM_PER_CLASS):
        files[f"lying/{number:04d}.npy"] = encode_array(drawn(number, "lying"))
        files[f"standing/{number:04d}.tif"] = tiff(drawn(number, "standing"), compression=DEFLATE, separate=True)
        files[f"lying/{number:04d}.tif"] = tiff(drawn(1000 + number, "lying"), tile=(16, 16))
        files[f"standing/{number:04d}.npy"] = encode_array(drawn(1000 + number, "standing"))
    image_folders.fill(folder / "images", files)
    changes = {
        "data": {"source": str(folder / "images")},
        "augment": {"color_jitter": 0.0, "erase_probability": 0.1},
        "model": {"backbone": "test_resnet", "input_px": SIDE_PX},
        "training": {"epochs": 6},
        "registry": {"model_name": "bars", "min_top1": 0.95},
    }
    projects.write(folder / "project", projects.SMALL, changes)
    (folder / "project/data").mkdir()
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e@f -c commit.gpgsign=false commit -qm first"):
        git(folder / "project", command)
    done = python(folder / "project", "-c", STAGES)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "project"


def test_it_learns_what_the_last_channel_says(project):
    index = Index.read(project / "data/shards/index.json", "shard")
    assert (index.num_channels, index.pixel_dtype, index.image_extension) == (5, "uint16", "npy")
    metrics = json.loads((project / "data/report/metrics.json").read_bytes())
    assert metrics["top1"] >= 0.95
    facts = export.read_facts(project / "data/model")
    assert (facts.num_channels, facts.pixel_dtype, facts.mean) == (5, "uint16", index.mean)


def test_it_is_registered_as_the_champion(project):
    registration = json.loads((project / "data/registration.json").read_bytes())
    assert registration["alias"] == "champion"
    assert registration["promoted"]


def test_the_runs_page_says_what_was_trained_on_what(project):
    from pipeline.tracking import store

    run, index = Run.read(project / "data/run.json", "train"), Index.read(project / "data/shards/index.json", "shard")
    client = store.connect(f"sqlite:///{project / 'mlflow.db'}")
    page = client.get_run(run.run_id)
    tags = {
        "fingerprint": run.fingerprint,
        "index_digest": index.digest,
        "mlflow.source.git.commit": git(project, "rev-parse HEAD"),
        "git_dirty": "false",
    }
    assert {name: page.data.tags.get(name) for name in tags} == tags
    (data,) = page.inputs.dataset_inputs
    assert data.dataset.name == f"2 classes, {index.num_samples('train')} images"
    assert data.dataset.digest == index.digest[:36]
    counts = dict(zip(index.classes, index.class_counts("train"), strict=True))
    assert json.loads(data.dataset.profile) == {"class_counts": counts}
    assert 0.0 < page.data.metrics["system/memory_fraction"] < 1.0
    assert "augmented_batch.png" in [file.path for file in client.list_artifacts(run.run_id)]


def test_new_arrays_and_tiffs_are_named_and_pictures_refused(project, tmp_path):
    files = {
        "a.npy": encode_array(drawn(5000, "lying")),
        "b.tif": tiff(drawn(5001, "standing")),
        "c.jpg": image_folders.jpeg(1),
        "d.npy": encode_array(bands.noise(1)),
    }
    image_folders.fill(tmp_path, files)
    done = convoy(project, "predict", "--json", *(str(tmp_path / name) for name in files))
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.get("label") for answer in answers] == ["lying", "standing", None, None]
    assert "has 3 channels of uint8, the model was trained on 5 channels of uint16" in answers[2]["error"]
    assert "has 5 channels of uint8, the model was trained on 5 channels of uint16" in answers[3]["error"]


def test_the_page_the_contact_sheet_and_the_runs_picture_are_drawn(project):
    page = (project / "data/report/report.html").read_text(encoding="utf-8")
    assert "lying" in page
    done = convoy(project, "browse", "--per-class", "2")
    assert done.returncode == 0, done.stderr
    assert (project / "data/contact_sheet.html").read_text(encoding="utf-8").count("data:image/jpeg") >= 8
    assert list((project / "runs").glob("*/**/augmented_batch.png"))


def test_colours_are_refused_before_anything_is_trained(project, tmp_path):
    folder = projects.write(tmp_path / "project", projects.SMALL, {"augment": {"policy": "randaugment"}})
    (folder / "data").mkdir()
    (folder / "data/shards").symlink_to(project / "data/shards")
    done = convoy(folder, "train")
    assert done.returncode == 1
    assert (
        "the images have 5 channels of uint16, not red, green and blue; set augment.color_jitter=0.0 and" in done.stderr
    )
    assert not (folder / "runs").exists()

"""Runs on other draws than all samples once: classes drawn equally, a part of the split."""

import contextlib

import numpy as np
import projects
import pytest
import safetensors.torch
import shard_sets
import torch

from pipeline import params
from pipeline.loading.read import SplitReader
from pipeline.training import ledger
from pipeline.training.fit import train_rank
from pipeline.training.folder import RunFolder
from pipeline.training.proof import check
from pipeline.training.task import Place, Task


class KilledError(Exception):
    pass


class Sink:
    """Raises at a step, as a kill would end the process there."""

    def __init__(self, stop_at=None):
        self._stop_at = stop_at

    def append(self, step, metrics, epoch=None):
        if step == self._stop_at:
            raise KilledError


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    labels = [0] * 36 + [1] * 4 + [0] * 6 + [1]
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [22, 18], "validation": [7]}, labels=labels)


def task(index_path, folder, sampling, lr, subset_fraction=1.0):
    sections = params.read(projects.REPOSITORY / "params.yaml")
    changes = {
        "loading": {
            "global_batch_size": 8,
            "sampling": sampling,
            "subset_fraction": subset_fraction,
            "workers_per_rank": 1,
        },
        "augment": {"crop_scale": (0.3, 1.0)},
        "model": {"backbone": "test_resnet", "weights": "none", "input_px": 32},
        "optimizer": {"name": "sgd", "lr": lr},
        "training": {"epochs": 2, "label_smoothing": 0.0, "checkpoint_every_seconds": 1e-9, "ledger": "full"},
    }
    kept = ("loading", "augment", "model", "optimizer", "schedule", "training")
    changed = {name: sections[name].model_copy(update=changes.get(name, {})) for name in kept}
    task = Task(run=RunFolder(folder), index_path=index_path, fingerprint="f", **changed)
    folder.mkdir(exist_ok=True)
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        task.plan(reader.index.digest).write(task.run.plan)
    return task


def train(what, stop_at=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), lambda path, position: Sink(stop_at))
    return safetensors.torch.load_file(what.run.weights)


def test_killed_and_resumed_it_ends_with_the_same_bits_and_agrees_with_its_plan(index_path, tmp_path):
    whole = train(task(index_path, tmp_path / "whole", "balanced", 0.01))
    what = task(index_path, tmp_path / "killed", "balanced", 0.01)
    with pytest.raises(KilledError):
        train(what, stop_at=7)
    resumed = train(what)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    rare = [sum(36 <= key < 40 for key in entry.keys) for entry in ledger.read(what.run.ledger)]
    assert rare == [4] * 10
    proof = check(what.run, index_path)
    assert (proof.num_steps, proof.num_samples, proof.num_attempts) == (10, 80, 2)


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_a_part_of_the_split_is_all_that_is_trained_on(index_path, tmp_path, sampling):
    what = task(index_path, tmp_path, sampling, 0.01, subset_fraction=0.5)
    train(what)
    proof = check(what.run, index_path)
    assert proof.num_steps == proof.num_steps_planned == 4  # two epochs of 20 samples
    with contextlib.closing(SplitReader(index_path, "train", fraction=0.5)) as reader:
        kept = set(reader.locate(np.arange(reader.num_samples))[1]["key"].tolist())
    used = {key for entry in ledger.read(what.run.ledger) for key in entry.keys}
    assert used <= kept
    assert len(used) >= 16


@pytest.mark.parametrize(("sampling", "is_told"), [("uniform", True), ("balanced", False)])
def test_a_class_that_is_most_of_the_images_is_a_cause_only_when_it_is_drawn_so(
    index_path, tmp_path, sampling, is_told
):
    what = task(index_path, tmp_path, sampling, lr=1e-12)
    train(what)
    said = what.run.notices.read_text()
    assert "collapse? " in said
    assert ("90% of the training images are of one class" in said) == is_told

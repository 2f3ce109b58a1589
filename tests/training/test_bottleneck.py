"""What the figures are called, and that a slow loader and a slow model are told apart in a real run."""

import dataclasses
import time

import projects
import pytest
import shard_sets
import torch

from pipeline import params
from pipeline.imaging import crops
from pipeline.imaging.region import Native
from pipeline.loading import encoded
from pipeline.modeling import objective
from pipeline.training.bottleneck import Spent, judge
from pipeline.training.fit import train_rank
from pipeline.training.folder import RunFolder
from pipeline.training.task import Place, Task

NUM_STEPS, BATCH = 5, 8


def text_of(*spent, workers=1, cores=2):
    return judge(spent, workers_per_rank=workers, num_cores=cores).text


@pytest.mark.parametrize(
    ("spent", "workers", "text"),
    [
        (Spent(wait=38, compute=62, decode=9), 1,
         "loader-bound 38%: raise loading.workers_per_rank or lower shards.short_side_px"),
        (Spent(wait=38, compute=62, decode=9), 2,
         "loader-bound 38%: lower shards.short_side_px, or give each rank more than 2 cores: workers use all of them"),
        (Spent(wait=20, compute=80, augment=9, decode=2), 1,
         "loader-bound 20%: raise loading.workers_per_rank or choose a lighter augment.policy"),
        (Spent(wait=90, compute=10, read=9, decode=2), 1,
         "loader-bound 90%: its threads mostly read: use a faster disk or store, or raise loading.cache_bytes"),
        (Spent(wait=15, transfer=25, compute=60), 1,
         "transfer-bound 25%: lower model.input_px, or give the GPU a faster way to the memory"),
        (Spent(wait=9, transfer=1, compute=90, decode=50), 1, "compute-bound 90%: the loader keeps up"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_to_turn(spent, workers, text):
    assert text_of(spent, workers=workers) == text


def test_the_rank_that_waits_the_most_decides():
    assert text_of(Spent(compute=10), Spent(wait=4, compute=6, decode=1)).startswith("loader-bound 40% (rank 1): ")


def test_nothing_spent_is_no_error():
    assert text_of(Spent()) == "compute-bound 0%: the loader keeps up"


class Sink(list):
    def append(self, step, metrics, epoch=None):
        super().append(metrics)

    def open(self, path, position):
        return self


@pytest.fixture
def run(tmp_path):
    """Trains a miniature; gives its notices and the largest value of each metric."""
    index_path = shard_sets.write(tmp_path / "shards", {"train": [NUM_STEPS * BATCH]})
    sections = params.read(projects.REPOSITORY / "params.yaml")
    changes = {
        "loading": {"global_batch_size": BATCH, "workers_per_rank": 1},
        "model": {"backbone": "test_resnet", "input_px": 32},
        "training": {"epochs": 1},
    }
    names = sections.keys() & {field.name for field in dataclasses.fields(Task)}
    changed = {name: sections[name].model_copy(update=changes.get(name, {})) for name in names}

    def train():
        folder, sink = RunFolder(tmp_path / "run"), Sink()
        torch.set_num_threads(1)
        task = Task(run=folder, index_path=index_path, fingerprint="f", **changed)
        train_rank(task, Place(0, 1, "cpu"), sink.open)
        largest: dict[str, float] = {}
        for name, value in (pair for metrics in sink for pair in metrics.items()):
            largest[name] = max(value, largest.get(name, value))
        return folder.notices.read_text(), largest

    return train


def slow(monkeypatch, owner, name, seconds):
    inner = getattr(owner, name)

    def slowed(*arguments, **named):
        time.sleep(seconds)
        return inner(*arguments, **named)

    monkeypatch.setattr(owner, name, slowed)


def test_a_slow_loader_is_told(run, monkeypatch):
    monkeypatch.setattr(crops, "_native", Native(False, "cannot be slowed"))
    slow(monkeypatch, encoded, "decode_region", 0.08)
    notices, metrics = run()
    assert notices.startswith("loader-bound ")
    assert metrics["loader/epoch_loader_bound_fraction"] > 0.5
    assert metrics["loader/wait_fraction"] > 0.5
    assert metrics["loader/decode_seconds"] > BATCH * 0.08


def test_a_slow_model_is_told(run, monkeypatch):
    slow(monkeypatch, objective, "normalize", 0.5)
    notices, metrics = run()
    assert notices.startswith("compute-bound ")
    assert metrics["loader/epoch_compute_bound_fraction"] > 0.8
    assert metrics["loader/compute_fraction"] > 0.8

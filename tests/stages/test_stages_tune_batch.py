"""`convoy tune-batch` on a real network: sizes, rates, a suggestion for all ranks."""

import json
import shutil

import projects
import pytest
import shard_sets
import torch

from pipeline.loading.read import SplitReader
from pipeline.stages.trial import task_with
from pipeline.stages.tune_batch import tune_batch
from pipeline.training.trial import Trial


@pytest.fixture
def project(tmp_path, monkeypatch):
    changes = {"model": {"input_px": 32}, "cluster": {"num_workers": 2}}
    folder = projects.write(tmp_path / "project", projects.SMALL, changes)
    monkeypatch.chdir(folder)
    shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7]})
    return folder


def test_sizes_rise_to_the_largest_and_nothing_is_kept(project, capsys):
    before = sorted(project.rglob("*"))
    tune_batch(20, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert [each["batch_size_per_rank"] for each in said["measured"]] == [8, 16]
    assert said["chosen"] in said["measured"]
    assert all(each["images_per_second"] > 0 for each in said["measured"])
    assert sorted(project.rglob("*")) == before


def test_the_suggestion_is_for_all_ranks(project, capsys):
    tune_batch(8, as_json=False)
    said = capsys.readouterr().out
    assert "Try loading.global_batch_size: 16 (now 16, 2 ranks)" in said
    assert len(said.splitlines()) == 3


def test_a_multi_label_set_is_measured_as_well(project, capsys):
    projects.write(project, projects.SMALL, {"model": {"input_px": 32}, "training": {"loss": "bce"}})
    labels = [[[0], [1], [0, 1], []][number % 4] for number in range(30)]
    shard_sets.write(project / "multi", {"train": [20], "validation": [10]}, labels=labels)
    shutil.rmtree(project / "data/shards")
    (project / "multi").rename(project / "data/shards")
    tune_batch(16, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert [each["batch_size_per_rank"] for each in said["measured"]] == [8, 16]


def test_half_precision_is_what_a_run_on_a_cpu_makes_of_it(project):
    task, seen = task_with({"training.precision": "fp16"}), []
    reader = SplitReader(task.index_path, "train")
    trial = Trial(task, reader)
    trial.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trial.step(next(trial.batches()), lr=0.01)
    assert seen == [torch.bfloat16]

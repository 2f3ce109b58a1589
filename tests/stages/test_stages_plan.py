"""`convoy plan` on real shards: figures by hand, a table that fits, refusals in training's words, nothing kept."""

import json
import os
import re
import socket
import subprocess
import sys

import projects
import pytest
import shard_sets
import torch
import yaml

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ClusterError, ModelError, ParamsError
from pipeline.loading.order import REMOTE_WINDOW_SAMPLES
from pipeline.stages import layout
from pipeline.stages.plan import plan
from pipeline.stages.task import describe, sections_of_task
from pipeline.training import forecast, rehearsal


@pytest.fixture
def project(tmp_path, monkeypatch):
    changes = {
        "model": {"input_px": 32},
        "loading": {"global_batch_size": 8, "lanes": 2},
        "training": {"epochs": 3, "keep_checkpoints": 2, "ema_decay": 0.9},
        "cluster": {"num_workers": 2, "price_per_gpu_hour": None},
        "optimizer": {"name": "adamw"},
    }
    folder = projects.write(tmp_path / "project", projects.SMALL, changes)
    monkeypatch.chdir(folder)
    shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7]})
    return folder


def change(section, **values):
    content = yaml.safe_load(layout.PARAMS.read_text())
    content[section] |= values
    layout.PARAMS.write_text(yaml.safe_dump(content, sort_keys=False))


def test_figures_by_hand_and_nothing_is_kept(project, capsys):
    change("cluster", price_per_gpu_hour=3.6)
    before = sorted(project.rglob("*"))
    plan(as_json=True)
    assert sorted(project.rglob("*")) == before
    said = json.loads(capsys.readouterr().out)
    assert (said["num_samples"], said["num_validation_samples"], said["samples_left_out_per_epoch"]) == (43, 7, 3)
    assert (said["epochs"], said["steps_per_epoch"], said["num_steps"], said["num_steps_done"]) == (3, 5, 15, 0)
    assert (said["num_ranks"], said["batch_size_per_rank"], said["num_shards"]) == (2, 4, 2)
    assert said["shard_bytes"] == sum(path.stat().st_size for path in (project / "data/shards/train").glob("*.tar"))
    memory = said["memory_bytes"]
    assert memory["gradients"] == 4 * said["num_parameters"]
    assert memory["optimizer"] == 8 * said["num_parameters"]
    assert memory["weights"] == memory["average"] > memory["gradients"]  # running statistics too
    assert memory["batches"] == 5 * 4 * 3 * 32 * 32
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")
    assert said["run_folder_bytes"] == 3 * (2 * memory["weights"] + memory["optimizer"]) + memory["weights"]
    assert said["seconds_to_the_end"] > 15 * 4 / said["together_images_per_second"]
    assert said["cost"] == pytest.approx(said["seconds_to_the_end"] * 2 * 3.6 / 3600)


@pytest.fixture
def rates(monkeypatch):
    """Lets the rehearsal come to these seconds for loading, for computing and for both."""

    def rates(*seconds):
        monkeypatch.setattr(rehearsal, "rehearse", lambda trial, world_size: (forecast.Rates(*seconds), 1000))

    return rates


@pytest.mark.parametrize("mirror", [False, True])
def test_what_is_left_of_a_begun_run_is_foretold(project, capsys, rates, mirror):
    rates(0.05, 0.3, 0.32)
    change("model", mirror=mirror)
    task = describe(Index.read(layout.INDEX, made_by="shard"), **params.read(layout.PARAMS, sections_of_task()))
    (task.run.checkpoints / "step-000000004").mkdir(parents=True)
    plan(as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["num_steps"], said["num_steps_done"]) == (15, 4)
    of_an_image = 0.3 / 3 / 4 * (1 + mirror)  # a third of a training step's time, which is of four images
    assert said["seconds_to_the_end"] == pytest.approx(11 * 0.32 + 3 * 4 * of_an_image)
    assert torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize(("seconds", "slower"), [((0.2, 0.1, 0.2), "loader"), ((0.1, 0.2, 0.2), "network")])
def test_the_slower_half_is_named(project, capsys, rates, seconds, slower):
    rates(*seconds)
    plan(as_json=False)
    assert f"the {slower} is the slower one" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_without_ranks_on_ray_its_address_is_no_matter(project, capsys, rates):
    rates(0.1, 0.1, 0.1)
    change("cluster", num_workers=0, address="127.0.0.1:1")
    plan(as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["num_ranks"], said["batch_size_per_rank"]) == (1, 8)


def test_pieces_of_a_step_need_less_memory_at_a_time(project, capsys):
    plan(as_json=True)
    change("training", accumulate_steps=2)
    plan(as_json=True)
    whole, pieces = (json.loads(line)["memory_bytes"]["activations"] for line in capsys.readouterr().out.splitlines())
    assert pieces == whole // 2


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_fits_the_terminal_and_a_run_without_a_price_has_no_cost(project, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    plan(as_json=False)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= int(columns)
    assert re.search(r"steps +│ 15 +│ 3 epochs of 5; 0 done", said)
    assert re.search(r"samples an epoch +│ 40 +│ of 43; 7 to validate with", said)
    assert re.search(r"samples a step +│ 8 +│ 2 ranks of 4", said)
    assert "cost" not in said


def test_balanced_sampling_reads_every_shard(project, capsys):
    change("loading", lanes=1, shuffle_window_samples=None, sampling="balanced", subset_fraction=0.5)
    plan(as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["shards_per_lane"], said["shards_per_rank"]) == ([2, 2], [2, 2])
    assert 19 <= said["num_samples"] <= 24


@pytest.mark.parametrize(
    ("section", "values", "error", "message"),
    [
        ("loading", {"global_batch_size": 64}, ParamsError, "global_batch_size=64 is more than the 43 training"),
        ("model", {"backbone": "resnet51"}, ModelError, "model.backbone=resnet51 is not a model"),
        ("loading", {"global_batch_size": 4096}, ParamsError, "is more than the 43 training samples"),
        ("cluster", {"storage": "s3://bucket/runs"}, ClusterError, "is a URI; runs need a folder"),
        ("cluster", {"num_workers": 4096}, ParamsError, "is not divisible by the 4096 ranks"),
    ],
)
def test_what_training_refuses_is_refused(project, section, values, error, message):
    change(section, **values)
    with pytest.raises(error, match=message):
        plan(as_json=True)


def test_sides_that_the_network_cannot_take_are_refused(project):
    change("model", backbone="vit_tiny_patch16_224")
    change("training", progressive_px=[16, 32])
    with pytest.raises(ModelError, match=r"progressive_px has 16, and model\.backbone=vit_tiny_patch16_224"):
        plan(as_json=True)


def test_more_ranks_than_cores_are_refused(project):
    change("loading", global_batch_size=4096, lanes=1)
    change("cluster", num_workers=4096)
    with pytest.raises(ClusterError, match=r"cluster.num_workers=4096 ranks need a core each and the cluster has"):
        plan(as_json=True)


def test_of_a_world_that_may_vary_the_most_ranks_are_reckoned_with_and_the_least_must_fit(project, rates, capsys):
    rates(1.0, 1.0, 1.0)
    change("loading", global_batch_size=40, lanes=1)
    change("cluster", num_workers=[1, 40])
    plan(as_json=True)
    assert json.loads(capsys.readouterr().out)["num_ranks"] == 40
    change("loading", global_batch_size=4096)
    change("cluster", num_workers=[2048, 4096])
    with pytest.raises(ClusterError, match=r"num_workers=\[2048, 4096\] ranks need a core each and the cluster has"):
        plan(as_json=True)


def test_a_cluster_that_does_not_answer_is_refused(project):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        change("cluster", address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ClusterError, match="cannot be reached"):
            plan(as_json=True)


def test_without_shards_the_way_is_said(project):
    (project / "data/shards/index.json").unlink()
    with pytest.raises(ArtifactError, match="run `convoy shard` first"):
        plan(as_json=True)


def test_a_run_on_shards_at_an_address_is_named_after_its_window(project):
    index = Index.read(layout.INDEX, made_by="shard")
    sections = params.read(layout.PARAMS, sections_of_task())
    here = describe(index, **sections)
    there = describe(index.model_copy(update={"location": "s3://bucket/photos"}), **sections)
    assert there.loading.shuffle_window_samples == REMOTE_WINDOW_SAMPLES
    assert there.fingerprint != here.fingerprint


@pytest.mark.slow
def test_its_memory_is_what_real_steps_take(project, capsys, monkeypatch):
    monkeypatch.setattr(rehearsal, "NUM_BATCHES", 1)
    change("model", backbone="resnet18", input_px=64)
    change("loading", global_batch_size=32)
    change("cluster", num_workers=0)
    plan(as_json=True)
    memory = json.loads(capsys.readouterr().out)["memory_bytes"]
    done = subprocess.run([sys.executable, "-c", REAL_STEPS], capture_output=True, text=True, check=True)
    grown_bytes = int(done.stdout) + memory["weights"]  # the network was there before
    assert memory["total"] - memory["average"] == pytest.approx(grown_bytes, rel=0.35)


REAL_STEPS = """
import os
os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
import torch
from pipeline import params
from pipeline.artifacts import Index
from pipeline.loading.read import SplitReader
from pipeline.stages import layout
from pipeline.stages.task import describe, sections_of_task
from pipeline.training.trial import Trial

torch.set_num_threads(1)
sections = params.read(layout.PARAMS, sections_of_task())
task = describe(Index.read(layout.INDEX, made_by="shard"), **sections)
trial = Trial(task, SplitReader(task.index_path, "train"))
trial.network(torch.rand(1, 3, 64, 64)).sum()
batches = trial.batches()
batch = next(batches)
before = int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) * 1024
for _ in range(3):
    trial.step(batch, lr=0.0)
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
print(peak - before)
"""

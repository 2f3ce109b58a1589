"""`convoy scout` on a small set: a row for each candidate, the one that has seen such images first."""

import json

import projects
import pytest
import safetensors.torch
import shard_sets
import torch

from pipeline.errors import ModelError, ParamsError
from pipeline.modeling import backbone
from pipeline.stages import layout
from pipeline.stages.scout import scout


@pytest.fixture
def project(tmp_path, monkeypatch):
    changes = {"model": {"backbone": "test_resnet", "options": {}, "input_px": 32}, "training": {"seed": 0}}
    projects.write(tmp_path, projects.SMALL, changes)
    shard_sets.write(tmp_path / layout.SHARDS, {"train": [60, 60]}, num_classes=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(capsys, *candidates, num_samples=100):
    scout(list(candidates), num_samples, True)
    said = json.loads(capsys.readouterr().out)
    assert said["num_samples"] == num_samples
    return said["found"]


def test_weights_that_see_come_before_weights_that_do_not(project, capsys):
    """All features of the blind network are nothing, so its probe can only guess."""
    blind = backbone.build("test_resnet", num_classes=2, input_px=32)
    with torch.no_grad():
        blind.conv1[0].weight.zero_()
    safetensors.torch.save_file(blind.state_dict(), project / "blind.safetensors")
    rows = found(capsys, "test_resnet=blind.safetensors", "test_resnet")
    assert [row["weights"] for row in rows] == ["none", "blind.safetensors"]
    assert rows[0]["probe_top1"] > 0.9 > rows[1]["probe_top1"]
    assert rows[0]["knn_top1"] > 0.9


def test_cost_and_memory_are_those_of_the_network(project, capsys):
    (row,) = found(capsys, "lenet5")
    network = backbone.build("lenet5", num_classes=3, input_px=32)
    assert row["weights_mb"] == round(sum(p.numel() for p in network.parameters()) * 4 / 1e6, 2)
    assert row["cpu_ms_per_image"] > 0
    own_maps = 6 * 28 * 28 + 6 * 14 * 14 + 16 * 10 * 10 + 16 * 5 * 5 + 120 + 84 + 3
    assert row["activations_mb_per_image"] == round(own_maps * 4 / 1e6, 2)


def test_the_same_images_give_the_same_row(project, capsys):
    rows = [found(capsys, "test_resnet")[0] for _ in range(2)]
    assert len({(row["probe_top1"], row["knn_top1"]) for row in rows}) == 1


def test_the_table_says_what_it_is_of(project, capsys):
    scout(["test_resnet"], 100, False)
    said = capsys.readouterr().out
    assert "test_resnet" in said
    assert "on 100 training images, of which 70 % to fit; the best first" in said


def test_an_unknown_backbone_and_too_few_images_are_refused(project):
    with pytest.raises(ModelError, match="resnet81 is not a model"):
        scout(["resnet81"], 100, True)
    with pytest.raises(ParamsError, match=r"--samples 1 leaves 1 images; some are to fit and some to judge"):
        scout(["test_resnet"], 1, True)

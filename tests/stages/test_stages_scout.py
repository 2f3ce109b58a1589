"""`convoy scout` on a small set: a row for each candidate, the one that has seen such images first."""

import contextlib
import json

import numpy as np
import projects
import pytest
import safetensors.torch
import shard_sets
import torch
import yaml

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ModelError, ParamsError
from pipeline.evaluation import scouting
from pipeline.loading.batches import split_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.modeling import backbone
from pipeline.stages import layout
from pipeline.stages.scout import _activation_bytes, _features, _images, _network, scout


@pytest.fixture
def project(tmp_path, monkeypatch):
    changes = {"model": {"backbone": "test_resnet", "options": {}, "input_px": 32}, "training": {"seed": 3}}
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


def test_options_and_weights_of_the_params_are_those_of_its_backbone(project, capsys):
    content = yaml.safe_load(layout.PARAMS.read_text())
    content["model"] |= {"backbone": "convoynet", "options": {"widths": [8, 16]}, "weights": "/nowhere.safetensors"}
    layout.PARAMS.write_text(yaml.safe_dump(content, sort_keys=False))
    rows = {row["backbone"]: row for row in found(capsys, "convoynet", "test_resnet")}
    own = backbone.build("convoynet", num_classes=3, input_px=32, options={"widths": [8, 16]})
    assert rows["convoynet"]["weights_mb"] == round(sum(p.numel() for p in own.parameters()) * 4 / 1e6, 2)
    assert {row["weights"] for row in rows.values()} == {"none"}


def test_the_images_are_those_that_the_seed_draws_as_evaluation_sees_them(project):
    sections = params.read(layout.PARAMS)
    index = Index.read(layout.INDEX, made_by="shard")
    images_NCHW, labels_N = _images(index, sections, 40)
    with contextlib.closing(SplitReader(layout.INDEX, "train")) as reader:
        drawn = order(reader.shard_sizes, seed=3, epoch=0, digest=index.digest, global_batch_size=40).step(0)
        _, rows = reader.locate(drawn)
    with contextlib.closing(SplitReader(layout.INDEX, "train")) as reader:
        batches = list(split_batches(reader, input_px=32, batch_size=64, num_workers=0))
    keys = np.concatenate([batch.keys_B[batch.mask_B.numpy()] for batch in batches])
    places = [int(np.flatnonzero(keys == key)[0]) for key in rows["key"]]
    every_NCHW = torch.cat([batch.images_BCHW[batch.mask_B] for batch in batches])
    assert torch.equal(images_NCHW, every_NCHW[places])
    assert labels_N.tolist() == rows["label"].tolist()


def test_features_are_those_of_evaluation(project):
    index = Index.read(layout.INDEX, made_by="shard").model_copy(update={"mean": [0.1, 0.2, 0.3]})
    network = _network(params.read(layout.PARAMS)["model"], index, params.read(layout.PARAMS))
    images_NCHW = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    features_NF = _features(network, images_NCHW, index)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (index.mean, index.std))
    with torch.inference_mode():
        logits_NK = network.eval()((images_NCHW.float() / 255 - mean) / std)
        torch.testing.assert_close(network.get_classifier()(features_NF), logits_NK, atol=1e-4, rtol=1e-4)


def test_of_equals_the_better_neighbour_comes_first(project, capsys, monkeypatch):
    seen, neighbours = [], iter([2, 2, 2, 2, 2, 9, 9, 9, 9, 9])
    monkeypatch.setattr(scouting, "probe_right", lambda *parts: seen.append(parts) or 10)
    monkeypatch.setattr(scouting, "knn_right", lambda *parts: next(neighbours))
    assert [row["knn_top1"] for row in found(capsys, "test_resnet", "test_resnet")] == [0.45, 0.1]
    fit_NF, labels_N, judged_MF, labels_M, num_classes = seen[0]
    assert (len(fit_NF), len(labels_N), len(judged_MF), len(labels_M), num_classes) == (80, 80, 20, 20, 3)
    assert torch.equal(seen[5][0], fit_NF), "each candidate's fresh weights are those of the seed"


def test_what_layers_keep_is_counted_once():
    inner = torch.nn.Conv2d(3, 4, 3)
    assert _activation_bytes(torch.nn.Sequential(torch.nn.Sequential(inner)), torch.zeros(1, 3, 8, 8)) == 4 * 6 * 6 * 4
    assert not inner._forward_hooks


def test_the_table_says_what_it_is_of(project, capsys):
    scout(["test_resnet"], 100, False)
    said = capsys.readouterr().out
    assert "test_resnet" in said
    assert "Cross-validated top-1 of frozen features on 100 training images; the best first" in said


def test_an_unknown_backbone_and_too_few_images_are_refused(project):
    with pytest.raises(ModelError, match="resnet81 is not a model"):
        scout(["resnet81"], 100, True)
    with pytest.raises(ParamsError, match=r"--samples 1 leaves 1 images; some are to fit and some to judge"):
        scout(["test_resnet"], 1, True)

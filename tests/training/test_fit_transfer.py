"""Whole runs that start from weights: what is frozen keeps its bits, on one rank and on two, killed or not."""

import projects
import pytest
import safetensors.torch
import shard_sets
import torch

from pipeline import params
from pipeline.modeling import backbone, transfer
from pipeline.modeling import weights as starting
from pipeline.training.fit import train_rank
from pipeline.training.folder import RunFolder
from pipeline.training.task import Place, Task

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network's weights, in a file."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("source") / "source.safetensors"
    network = backbone.build("test_resnet", num_classes=2, input_px=32)
    safetensors.torch.save_file(network.state_dict(), path)
    return path


def task(index_path, source, folder, changes=None, **how):
    sections = params.read(projects.REPOSITORY / "params.yaml")
    small = {
        "loading": {"global_batch_size": 8, "lanes": 2, "workers_per_rank": 1},
        "augment": {"policy": "none"},
        "model": {"backbone": "test_resnet", "options": {}, "input_px": 32, "drop_rate": 0.3},
        "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.05, "momentum": 0.9},
        "schedule": {"name": "constant", "warmup_fraction": 0.0},
        "training": {
            "epochs": 3, "precision": "fp32", "ema_decay": 0.0, "checkpoint_every_seconds": 1e-9,
            "keep_checkpoints": 100,
        },
        "transfer": {"mode": "full", "unfreeze_every_epochs": 1, "lr_decay": 1.0, "freeze_normalisation": False} | how,
    }  # fmt: skip
    for name, values in (changes or {}).items():
        small[name] = small[name] | values
    changed = {name: sections[name].model_copy(update=values) for name, values in small.items()}
    start = starting.look_at(str(source), "test_resnet")
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint="f", start=start, **changed)


class KilledError(Exception):
    pass


class Sink:
    """Raises at a step, as a kill would end the process there."""

    def __init__(self, stop_at=None):
        self._stop_at = stop_at

    def append(self, step, metrics, epoch=None):
        if step == self._stop_at and "train/loss" in metrics:
            raise KilledError

    def open(self, path, position):
        return self


def train(what, stop_at=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), Sink(stop_at).open)


def changed(what, source):
    """Names of the tensors that are no longer those of the source, the head's apart."""
    before, after = safetensors.torch.load_file(source), safetensors.torch.load_file(what.run.weights)
    return {name for name in before if not name.startswith("fc.") and not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_probe_leaves_every_bit_of_the_body(index_path, source, tmp_path, ema_decay):
    what = task(index_path, source, tmp_path, {"training": {"ema_decay": ema_decay}}, mode="probe")
    train(what)
    assert changed(what, source) == set()
    torch.manual_seed(what.training.seed)
    fresh = backbone.build("test_resnet", num_classes=2, input_px=32)
    assert not torch.equal(safetensors.torch.load_file(what.run.weights)["fc.weight"], fresh.fc.weight)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "muon"])
def test_gradually_thawed_layers_are_trained_and_no_others(index_path, source, tmp_path, optimizer):
    what = task(index_path, source, tmp_path, {"optimizer": {"name": optimizer}}, mode="gradual")
    train(what)
    assert {name.split(".")[0] for name in changed(what, source)} == {"layer3", "layer4"}


@pytest.mark.parametrize("stop_at", [4, 5, 7, 10])
def test_killed_and_resumed_between_thawings_it_ends_with_the_same_bits(index_path, source, tmp_path, stop_at):
    undisturbed, what = (
        task(index_path, source, tmp_path / name, mode="gradual", lr_decay=0.5) for name in ("one", "other")
    )
    train(undisturbed)
    with pytest.raises(KilledError):
        train(what, stop_at)
    train(what)
    assert what.run.weights.read_bytes() == undisturbed.run.weights.read_bytes()


def test_a_run_that_has_begun_needs_its_starting_weights_no_more(index_path, source, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(source.read_bytes())
    what = task(index_path, own, tmp_path / "run")
    with pytest.raises(KilledError):
        train(what, stop_at=4)
    own.unlink()
    train(what)
    assert what.run.weights.exists()


def test_a_layer_is_as_fast_as_its_scale(index_path, source, tmp_path):
    """Small steps of SGD without momentum: how far a tensor goes is its scale times its gradient."""
    frozen = {"freeze_normalisation": True}
    plain = {
        "optimizer": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 1e-4},
        "training": {"epochs": 1, "clip_norm": None},
        "model": {"drop_rate": 0.0},
    }
    one, other = (
        task(index_path, source, tmp_path / str(decay), plain, lr_decay=decay, **frozen) for decay in (1.0, 0.5)
    )
    for what in (one, other):
        train(what)
    before = safetensors.torch.load_file(source)
    far, near = (safetensors.torch.load_file(what.run.weights) for what in (one, other))
    scales = transfer.lr_scales(backbone.build("test_resnet", num_classes=2, input_px=32), 0.5)
    for name in ("layer4.0.downsample.1.weight", "layer2.0.downsample.1.weight", "conv1.0.weight"):
        ratio = (near[name] - before[name]).norm() / (far[name] - before[name]).norm()
        assert float(ratio) == pytest.approx(scales[name], rel=0.05)


def test_frozen_normalisation_keeps_weights_and_statistics(index_path, source, tmp_path):
    what = task(index_path, source, tmp_path, freeze_normalisation=True)
    train(what)
    names = changed(what, source)
    assert names
    assert not any("running" in name or "bn" in name for name in names)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fewer_bits_and_clipping_go_together(index_path, source, tmp_path, optimizer):
    changes = {"training": {"precision": "bf16", "clip_norm": 1.0, "epochs": 1}, "optimizer": {"name": optimizer}}
    what = task(index_path, source, tmp_path, changes)
    train(what)
    assert changed(what, source)


def _rank(rank, what, rendezvous):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    train_rank(what, Place(rank, 2, "cpu"), Sink().open)
    torch.distributed.destroy_process_group()


def test_two_ranks_thaw_as_one_does(index_path, source, tmp_path):
    """Without dropout and with still statistics, a step is the same on any number of ranks but for rounding."""
    changes = {"model": {"drop_rate": 0.0}, "optimizer": {"name": "sgd", "lr": 0.001}}
    how = {"mode": "gradual", "freeze_normalisation": True}
    one, two = (task(index_path, source, tmp_path / name, changes, **how) for name in ("one", "two"))
    train(one)
    torch.multiprocessing.spawn(_rank, (two, tmp_path / "rendezvous"), nprocs=2)
    assert {name.split(".")[0] for name in changed(two, source)} == {"layer3", "layer4"}
    mine, theirs = (safetensors.torch.load_file(what.run.weights) for what in (one, two))
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, atol=1e-4, rtol=1e-3)

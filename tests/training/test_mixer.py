"""Mixing in a run: the same for any number of ranks, after a resume, and off when it is to be off."""

import dataclasses
import itertools

import numpy as np
import projects
import pytest
import safetensors.torch
import shard_sets
import torch

from pipeline import params
from pipeline.modeling.mixing import Mixing
from pipeline.training.fit import train_rank
from pipeline.training.folder import RunFolder
from pipeline.training.mixer import Mixer
from pipeline.training.task import Place, Task

BATCH = 24


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    keys_B = np.random.default_rng(0).permutation(1000)[:BATCH].astype(np.uint64)
    return torch.randn(BATCH, 3, 8, 8, generator=random), torch.arange(BATCH) % 5, keys_B


def mixer(num_steps=10, seed=0):
    return Mixer(Mixing(0.5, 0.5), seed=seed, num_steps=num_steps)


@pytest.mark.parametrize("world_size", [2, 3, 4, 6, 12])
def test_any_number_of_ranks_mixes_alike(batch, world_size):
    whole = mixer()(*batch, 3)
    size = BATCH // world_size
    parts = [mixer()(*(each[at : at + size] for each in batch), 3) for at in range(0, BATCH, size)]
    for of_whole, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
        assert of_whole.equal(torch.cat(of_parts))


def test_each_step_and_each_seed_mixes_otherwise_and_repeats(batch):
    made = [mixer(seed=seed)(*batch, step).images_BCHW for seed, step in itertools.product((0, 1), (0, 1, 2))]
    assert all(not one.equal(other) for one, other in itertools.combinations(made, 2))
    assert made[1].equal(mixer()(*batch, 1).images_BCHW)


def test_after_its_last_step_nothing_is_mixed(batch):
    assert mixer(num_steps=4)(*batch, 3).others_B is not None
    images_BCHW, others_B, shares_B = mixer(num_steps=4)(*batch, 4)
    assert images_BCHW is batch[0]
    assert others_B is None
    assert shares_B is None
    assert Mixer(Mixing(0.0, 0.0), seed=0, num_steps=4)(*batch, 0).others_B is None


class KilledError(Exception):
    pass


class Sink:
    def __init__(self, stop_at):
        self._stop_at = stop_at

    def append(self, step, metrics, epoch=None):
        if step == self._stop_at:
            raise KilledError


@pytest.fixture
def train(tmp_path):
    """Two epochs of five steps each; the weights."""
    index_path = shard_sets.write(tmp_path / "shards", {"train": [20, 20]})
    sections = params.read(projects.REPOSITORY / "params.yaml")
    torch.set_num_threads(1)

    def run(folder, stop_at=None, **augment):
        changes = {
            "loading": {"global_batch_size": 8, "workers_per_rank": 1},
            "augment": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "mix_off_epochs": 0} | augment,
            "model": {"backbone": "test_resnet", "input_px": 32},
            "training": {"epochs": 2, "checkpoint_every_seconds": 1e-9},
        }
        names = sections.keys() & {field.name for field in dataclasses.fields(Task)}
        changed = {name: sections[name].model_copy(update=changes.get(name, {})) for name in names}
        task = Task(run=RunFolder(tmp_path / folder), index_path=index_path, fingerprint="f", **changed)
        train_rank(task, Place(0, 1, "cpu"), lambda path, position: Sink(stop_at))
        return safetensors.torch.load_file(task.run.weights)

    return run


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_killed_and_resumed_a_mixed_run_ends_with_the_same_bits(train):
    whole = train("whole")
    with pytest.raises(KilledError):
        train("killed", stop_at=7)
    assert same(train("killed"), whole)


def test_mixing_changes_a_run_unless_it_is_off_in_all_its_epochs(train):
    plain = train("plain", mixup_alpha=0.0, cutmix_alpha=0.0)
    assert same(train("off", mix_off_epochs=2), plain)
    assert not same(train("on in the first", mix_off_epochs=1), plain)

"""A trial's steps are those of the run that it stands for: the run's own ledger is the second source."""

import contextlib
import dataclasses

import pytest
import safetensors.torch
import shard_sets
import torch
from small_runs import Sink, task

from pipeline.loading.read import SplitReader
from pipeline.modeling import backbone, schedule
from pipeline.modeling import weights as starting
from pipeline.training import ledger
from pipeline.training.fit import train_rank
from pipeline.training.task import Place
from pipeline.training.trial import Trial

NUM_STEPS = 10
"""Two epochs."""


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    labels = [1] * 10 + [0] * 33
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23]}, labels=labels)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights to start from, whose statistics differ from those of fresh ones."""
    torch.manual_seed(1)
    network = backbone.build("test_resnet", num_classes=2, input_px=32)
    network(torch.rand(8, 3, 32, 32))
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return starting.look_at(str(path), "test_resnet")


@pytest.mark.parametrize(
    ("changes", "transfer"),
    [
        ({}, None),
        ({"training": {"clip_norm": 0.01, "loss": "focal", "balance": "class_weights", "channels_last": False}}, None),
        ({"training": {"precision": "bf16", "clip_norm": None}}, None),
        ({}, {"mode": "probe"}),
        ({}, {"lr_decay": 0.5, "freeze_normalisation": True}),
    ],
    ids=str,
)
def test_its_losses_are_those_of_the_run(index_path, start, tmp_path, changes, transfer):
    torch.set_num_threads(1)
    what = task(index_path, tmp_path, epochs=2, model={"drop_rate": 0.0}, optimizer={"name": "sgd"}, **changes)
    if transfer:
        what = dataclasses.replace(what, start=start, transfer=what.transfer.model_copy(update=transfer))
    train_rank(what, Place(0, 1, "cpu"), Sink().open)
    wanted = [entry.loss for entry in ledger.read(what.run.ledger)]
    assert len(wanted) == NUM_STEPS

    rates = [what.optimizer.lr * schedule.lr_factor(n, NUM_STEPS, **what.schedule.model_dump()) for n in range(10)]
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        trial = Trial(what, reader)
        with contextlib.closing(trial.batches()) as batches:
            losses = [trial.step(next(batches), lr) for lr in rates]
    assert losses == pytest.approx(wanted, rel=1e-5)


def test_of_several_ranks_it_is_the_first(index_path, tmp_path):
    what = task(index_path, tmp_path)
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        trial = Trial(what, reader)
        with contextlib.closing(trial.batches(2)) as batches:
            batch = next(batches)
        steps = what.plan(reader.index.digest).epoch(0, reader)
        _, rows = reader.locate(steps.rank_step(0, 0, 2))
    assert batch.keys_B.tolist() == rows["key"].tolist()

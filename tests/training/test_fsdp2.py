"""FSDP2 on two real ranks: what they train is what DDP trains, what they leave is what one rank would leave."""

import os

import pytest
import safetensors.torch
import shard_sets
import torch
from small_runs import Sink, task
from torch.distributed.tensor import DTensor

from pipeline.errors import TrainingError
from pipeline.modeling import backbone
from pipeline.training import checkpoint, ledger
from pipeline.training.fit import train_rank
from pipeline.training.folder import Result
from pipeline.training.module import Classifier
from pipeline.training.parts import units
from pipeline.training.task import Place

OPTIMIZERS = ("adamw", "sgd", "lamb", "muon")


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


def a_task(index_path, folder, strategy, *, optimizer="adamw"):
    return task(
        index_path,
        folder,
        epochs=2,
        optimizer={"name": optimizer},
        model={"backbone": "convoynet", "options": {"widths": [16, 32]}},
        # Clipping would hide gradients that are added up where their mean is meant.
        training={"strategy": strategy, "patience_epochs": 5, "clip_norm": None if optimizer == "sgd" else 1.0},
    )


def _rank(rank, runs, rendezvous):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(1)
    end = Classifier.on_train_epoch_end
    for what, stop_at in runs:
        Classifier.on_train_epoch_end = _noting_parts(end, what.run.path / f"parts-{rank}")
        train_rank(what, Place(rank, 2, "cpu"), Asking(what.run.stop, stop_at).open)
    torch.distributed.destroy_process_group()


class Asking(Sink):
    """Asks all ranks to end a step after `stop_at`, if ever."""

    def __init__(self, path, stop_at):
        super().__init__()
        self._path, self._at = path, stop_at

    def append(self, step, metrics, epoch=None):
        if step == self._at:
            self._path.touch()


def _noting_parts(end, path):
    """At an epoch's end, how many numbers of weights, average and optimizer state this rank holds."""

    def on_train_epoch_end(self):
        kept = [
            *self.network.parameters(),
            *self.trained.evaluated.parameters(),
            *(
                value
                for each in self.trainer.optimizers[0].state.values()
                for value in each.values()
                if isinstance(value, torch.Tensor) and value.ndim
            ),
        ]
        numbers = sum((each.to_local() if isinstance(each, DTensor) else each).numel() for each in kept)
        path.write_text(str(numbers))
        end(self)

    return on_train_epoch_end


def two_ranks(runs, folder):
    folder.mkdir(exist_ok=True)
    torch.multiprocessing.spawn(_rank, (runs, folder / f"rendezvous-{len(list(folder.iterdir()))}"), nprocs=2)


def one_rank(what):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), Sink().open)


def weights(what):
    return safetensors.torch.load_file(what.run.weights)


def losses(what):
    return [entry.loss for entry in ledger.read(what.run.ledger)]


def keys(what):
    return [(entry.step, sorted(entry.keys)) for entry in ledger.read(what.run.ledger)]


def numbers_held(what):
    return [int((what.run.path / f"parts-{rank}").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def pairs(index_path, tmp_path_factory):
    """By optimizer, a run under DDP and one under FSDP2, of two ranks each."""
    folder = tmp_path_factory.mktemp("pairs")
    made = {
        name: [a_task(index_path, folder / name / strategy, strategy, optimizer=name) for strategy in ("ddp", "fsdp2")]
        for name in OPTIMIZERS
    }
    both = [each for pair in made.values() for each in pair]
    for each in both:
        each.run.path.mkdir(parents=True)
    two_ranks([(each, None) for each in both], folder)
    return made


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_trains_what_ddp_trains(pairs, optimizer):
    ddp, fsdp2 = pairs[optimizer]
    assert keys(fsdp2) == keys(ddp)
    mine, theirs = weights(fsdp2), weights(ddp)
    assert mine.keys() == theirs.keys()
    tolerance = 5e-3 if optimizer == "muon" else 1e-4  # which turns matrices in bfloat16
    assert losses(fsdp2) == pytest.approx(losses(ddp), abs=tolerance)
    if optimizer == "muon":
        mine, theirs = (torch.cat([value.double().flatten() for value in each.values()]) for each in (mine, theirs))
        assert (mine - theirs).norm() < 0.02 * theirs.norm()
    else:
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)
    results = [Result.read(each.run.result, made_by="train") for each in (ddp, fsdp2)]
    assert results[0].num_parameters == results[1].num_parameters
    assert results[0].validation == pytest.approx(results[1].validation, abs=tolerance)


def test_each_rank_holds_half(pairs):
    ddp, fsdp2 = pairs["adamw"]
    whole = numbers_held(ddp)
    assert whole[0] == whole[1]
    assert sum(numbers_held(fsdp2)) == whole[0]
    assert max(numbers_held(fsdp2)) < 0.55 * whole[0]


def test_its_checkpoints_are_those_of_whole_networks(pairs):
    ddp, fsdp2 = (
        checkpoint.load(each.run.checkpoints, checkpoint.positions(each.run.checkpoints)[0]) for each in pairs["adamw"]
    )
    shapes = [_shapes(each) for each in (ddp, fsdp2)]
    assert shapes[0] == shapes[1]


def _shapes(value, path=()):
    if isinstance(value, torch.Tensor):
        return {path: (tuple(value.shape), value.dtype, type(value))}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {key: found for name, item in items for key, found in _shapes(item, (*path, name)).items()}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("fsdp2", "ddp"), ("ddp", "fsdp2")])
def test_stopped_under_one_it_goes_on_under_the_other(pairs, index_path, tmp_path, first, then):
    what = a_task(index_path, tmp_path / "run", first)
    what.run.path.mkdir(parents=True)
    two_ranks([(what, 6)], tmp_path)
    assert not what.run.result.exists()
    what.run.stop.unlink()
    two_ranks([(a_task(index_path, tmp_path / "run", then), None)], tmp_path)
    ddp, _ = pairs["adamw"]
    assert keys(what) == keys(ddp)
    assert losses(what) == pytest.approx(losses(ddp), abs=1e-4)
    for name, value in weights(ddp).items():
        torch.testing.assert_close(weights(what)[name], value, rtol=1e-3, atol=1e-4)


def test_what_two_ranks_began_one_goes_on_with(pairs, index_path, tmp_path):
    what = a_task(index_path, tmp_path / "run", "fsdp2")
    what.run.path.mkdir(parents=True)
    two_ranks([(what, 6)], tmp_path)
    what.run.stop.unlink()
    one_rank(what)
    ddp, _ = pairs["adamw"]
    assert keys(what) == keys(ddp)
    assert losses(what)[:8] == pytest.approx(losses(ddp)[:8], abs=1e-4)
    result = Result.read(what.run.result, made_by="train")
    assert (result.attempts, result.num_steps, result.world_size) == (2, 10, 1)


def _diverging_rank(rank, what, rendezvous):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    with pytest.raises(TrainingError, match="The weights are not finite after step 0"):
        train_rank(what, Place(rank, 2, "cpu"), Sink().open)
    torch.distributed.destroy_process_group()


def test_weights_that_are_not_finite_on_one_rank_stop_both(index_path, tmp_path):
    what = a_task(index_path, tmp_path / "run", "fsdp2")
    what = type(what)(**(vars(what) | {"optimizer": what.optimizer.model_copy(update={"lr": 1e30})}))
    torch.multiprocessing.spawn(_diverging_rank, (what, tmp_path / "rendezvous"), nprocs=2)


@pytest.mark.parametrize("name", ["convoynet", "resnet18", "test_vit", "test_convnext", "vgg11", "alexnet"])
def test_units_are_blocks_that_do_not_overlap(name):
    with torch.device("meta"):
        network = backbone.build(name, num_classes=3, input_px=64)
    size = sum(parameter.numel() for parameter in network.parameters())
    found = list(units(network, size / 100))
    assert len(found) >= 2
    inside = [set(map(id, unit.modules())) for unit in found]
    assert sum(map(len, inside)) == len(set().union(*inside))
    assert all(sum(parameter.numel() for parameter in unit.parameters()) >= size / 100 for unit in found)
    assert not any(isinstance(unit, torch.nn.Sequential | torch.nn.ModuleList) for unit in found)
    assert list(units(network, size + 1)) == []

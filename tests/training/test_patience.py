"""Early stopping: when a run ends, what it leaves, and that neither kills nor ranks change either."""

import os

import pytest
import safetensors.torch
import shard_sets
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import KilledError, Sink, task

from pipeline.training.fit import train_rank
from pipeline.training.folder import Result
from pipeline.training.patience import Patience, epochs_without_gain
from pipeline.training.record import Record
from pipeline.training.task import Place

FIGURES = [0.3, 0.5, 0.5, 0.4, 0.9]
"""Of five epochs, as a stand-in for what so small a validation split would say."""


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """Validation top-1 by epoch, whatever was learnt."""
    log = Record.log_validation
    monkeypatch.setattr(
        Record,
        "log_validation",
        lambda self, position, figures: log(self, position, {**figures, "top1": FIGURES[position // 5 - 1]}),
    )


def run(index_path, folder, sink=None, *, patience_epochs=2, epochs=5):
    what = task(index_path, folder, epochs=epochs, training={"patience_epochs": patience_epochs})
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), (sink or Sink()).open)
    return what, Result.read(what.run.result, made_by="train")


def weights(what):
    return safetensors.torch.load_file(what.run.weights)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_gain_is_more_than_all_before(figures):
    last_gain = max(n for n, figure in enumerate(figures) if all(figure > each for each in figures[:n]))
    assert epochs_without_gain(figures) == len(figures) - 1 - last_gain


def test_it_stops_when_patience_is_out_and_leaves_the_best_epoch(index_path, tmp_path):
    sink = Sink()
    stopped, result = run(index_path, tmp_path / "stopped", sink)
    assert (result.num_epochs, result.num_steps, result.exported_epoch) == (4, 20, 2)
    assert result.ending == (
        "stopped early, after epoch 4 of 5: validation top-1 was highest in epoch 2 (0.5000), whose weights are left, "
        "and has not risen in the 2 since (training.patience_epochs)"
    )
    assert [row["epochs_without_gain"] for row in result.history] == [0, 0, 1, 2]
    assert result.validation["top1"] == 0.5
    assert result.validation["loss"] == result.history[1]["validation_loss"]
    told = [metrics["val/epochs_without_gain"] for _, metrics in sink.lines if "val/top1" in metrics]
    assert told == [0, 0, 1, 2]

    class AfterTwo(Sink):
        def append(self, step, metrics, epoch=None):
            if step == 11:  # the weights of epoch 2's end are committed
                raise KilledError

    what = task(index_path, tmp_path / "whole", epochs=5)
    with pytest.raises(KilledError):
        train_rank(what, Place(0, 1, "cpu"), AfterTwo().open)
    state = torch.load(what.run.checkpoints / "step-000000010" / "state.pt", weights_only=True)
    assert same(weights(stopped), state["average"])
    assert state["best"] is None, "what nobody asked for is not kept"


def test_a_run_that_outlasts_its_patience_leaves_its_best_epoch_too(index_path, tmp_path):
    _, result = run(index_path, tmp_path, patience_epochs=3)
    assert (result.num_epochs, result.exported_epoch) == (5, 5)
    assert result.ending == (
        "all of 5 epochs; validation top-1 was highest in epoch 5 (0.9000), whose weights are left"
    )
    _, result = run(index_path, tmp_path / "shorter", patience_epochs=3, epochs=4)
    assert (result.num_epochs, result.exported_epoch, result.validation["top1"]) == (4, 2, 0.5)


def test_without_patience_all_epochs_are_trained_and_the_last_is_left(index_path, tmp_path):
    _, result = run(index_path, tmp_path, patience_epochs=None, epochs=4)
    assert (result.num_epochs, result.exported_epoch, result.ending) == (4, 4, "all of 4 epochs")
    assert result.validation["top1"] == 0.4
    assert [row["epochs_without_gain"] for row in result.history] == [0, 0, 1, 2]


@pytest.mark.parametrize(("step", "metric"), [(7, "train/loss"), (15, "val/top1"), (17, "train/loss")])
def test_killed_and_resumed_it_stops_at_the_same_epoch_with_the_same_bits(index_path, tmp_path, step, metric):
    undisturbed, result = run(index_path, tmp_path / "undisturbed")
    with pytest.raises(KilledError):
        run(index_path, tmp_path / "killed", Sink(step, metric))
    resumed, again = run(index_path, tmp_path / "killed")
    assert (again.num_epochs, again.exported_epoch, again.ending) == (4, 2, result.ending)
    assert same(weights(resumed), weights(undisturbed))


def test_killed_between_its_last_step_and_its_result_it_trains_no_further(index_path, tmp_path):
    what, before = run(index_path, tmp_path)
    was = weights(what)
    what.run.result.unlink()
    what.run.weights.unlink()
    again = Sink()
    _, result = run(index_path, tmp_path, again)
    assert again.lines == []
    assert (result.ending, result.num_steps) == (before.ending, 20)
    assert same(weights(what), was)


def _rank(rank, what, rendezvous):
    log = Record.log_validation
    Record.log_validation = lambda self, position, figures: log(
        self, position, {**figures, "top1": FIGURES[position // 5 - 1]}
    )
    os.environ.pop("OMP_NUM_THREADS", None)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    train_rank(what, Place(rank, 2, "cpu"), Sink().open)
    torch.distributed.destroy_process_group()


def test_two_ranks_stop_together_where_one_does(index_path, tmp_path):
    what = task(index_path, tmp_path, epochs=5, training={"patience_epochs": 2})
    torch.multiprocessing.spawn(_rank, (what, tmp_path / "rendezvous"), nprocs=2)
    result = Result.read(what.run.result, made_by="train")
    assert (result.num_epochs, result.exported_epoch, result.world_size) == (4, 2, 2)


def test_a_history_without_validation_has_no_best_epoch():
    patience = Patience(None)
    assert not patience.is_over([])
    assert patience.exported([{"epoch": 1}, {"epoch": 2}]) == {"epoch": 2}

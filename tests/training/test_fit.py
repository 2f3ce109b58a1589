"""Whole runs in miniature: the oracle is the ledger and the weights of a run that nothing disturbed."""

import contextlib
import itertools
import os
import threading
import traceback

import pytest
import safetensors.torch
import shard_sets
import torch
from small_runs import KilledError, Sink, task

from pipeline.errors import CheckpointError, LockedError, TrainingError
from pipeline.loading.read import SplitReader
from pipeline.modeling import objective
from pipeline.training import checkpoint, ledger
from pipeline.training.fit import train_rank
from pipeline.training.folder import Result
from pipeline.training.task import Place
from pipeline.training.writer import sole_writer

STEPS_PER_EPOCH = 5


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


def train(what, sink=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), (sink or Sink()).open)


def weights(what):
    return safetensors.torch.load_file(what.run.weights)


def steps(what):
    return [(entry.step, entry.keys, entry.loss) for entry in ledger.read(what.run.ledger)]


@pytest.fixture(scope="module")
def undisturbed(index_path, tmp_path_factory):
    what = task(index_path, tmp_path_factory.mktemp("undisturbed"))
    train(what)
    return what


def test_a_run_uses_each_sample_once_an_epoch_and_learns(undisturbed):
    entries = ledger.read(undisturbed.run.ledger)
    assert [entry.step for entry in entries] == list(range(3 * STEPS_PER_EPOCH))
    for epoch in range(3):
        keys = [k for entry in entries[epoch * STEPS_PER_EPOCH : (epoch + 1) * STEPS_PER_EPOCH] for k in entry.keys]
        assert len(set(keys)) == len(keys) == 40
    result = Result.read(undisturbed.run.result, made_by="train")
    assert (result.num_steps, result.num_epochs, result.attempts, result.world_size) == (15, 3, 1, 1)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert 0 <= result.validation["top1"] <= 1


@pytest.mark.parametrize("stop_at", [1, 5, 7, 10, 15])
def test_killed_and_resumed_it_ends_with_the_same_bits(index_path, undisturbed, tmp_path, stop_at):
    what = task(index_path, tmp_path)
    with pytest.raises(KilledError):
        train(what, Sink(stop_at))
    resumed = Sink()
    train(what, resumed)
    assert steps(what) == steps(undisturbed)
    mine, theirs = weights(what), weights(undisturbed)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    one, other = (Result.read(each.run.result, made_by="train") for each in (what, undisturbed))
    assert one.attempts == 2
    timeless = {"images_per_second"}
    assert [{k: v for k, v in row.items() if k not in timeless} for row in one.history] == [
        {k: v for k, v in row.items() if k not in timeless} for row in other.history
    ]
    # A checkpoint at every log point but an epoch's last: at most one step is done again.
    assert resumed.lines[0][0] in (stop_at, max(1, stop_at - 1))


def test_killed_in_the_validation_of_an_epoch_it_is_validated_again(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path)
    with pytest.raises(KilledError):
        train(what, Sink(5, "val/top1"))
    train(what)
    assert steps(what) == steps(undisturbed)
    one, other = (Result.read(each.run.result, made_by="train").history for each in (what, undisturbed))
    assert [row["validation_loss"] for row in one] == [row["validation_loss"] for row in other]


def test_loader_threads_change_nothing(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path, loading={"workers_per_rank": 0})
    train(what)
    assert steps(what) == steps(undisturbed)


@pytest.mark.parametrize("limit_bytes", [30_000, 10_000_000])
def test_decoded_images_that_are_kept_change_nothing(index_path, undisturbed, tmp_path, monkeypatch, limit_bytes):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    what = task(index_path, tmp_path / "run", loading={"decoded_cache_bytes": limit_bytes})
    train(what)
    assert steps(what) == steps(undisturbed)
    mine, theirs = weights(what), weights(undisturbed)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    (pixels,) = (tmp_path / "cache").rglob("pixels")
    assert pixels.stat().st_blocks > 0


def test_a_finished_run_is_left_as_it_is_but_for_its_result(index_path, undisturbed):
    before = weights(undisturbed)
    undisturbed.run.result.unlink()
    train(undisturbed)
    assert all(torch.equal(before[name], value) for name, value in weights(undisturbed).items())
    assert len(steps(undisturbed)) == 15


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path)
    with pytest.raises(KilledError):
        train(what, Sink(9))
    newest = checkpoint.positions(what.run.checkpoints)[0]
    (what.run.checkpoints / f"step-{newest:09d}" / "state.pt").write_bytes(b"")
    train(what)
    assert steps(what) == steps(undisturbed)
    assert f"checkpoint step-{newest:09d} is damaged" in what.run.notices.read_text()


def test_a_folder_of_another_run_is_refused(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path, fingerprint="one")
    with pytest.raises(KilledError):
        train(what, Sink(3))
    with pytest.raises(CheckpointError, match="holds the run one, not other; its folder was renamed or copied"):
        train(task(index_path, tmp_path, fingerprint="other"))


def test_weights_that_are_not_finite_stop_the_run_before_a_checkpoint(index_path, tmp_path):
    what = task(index_path, tmp_path, lr=1e30)
    with pytest.raises(
        TrainingError,
        match=r"The weights are not finite after step 0, with a learning rate of 5e\+29, .*Lower optimizer\.lr",
    ):
        train(what)
    assert not what.run.result.exists()
    assert checkpoint.positions(what.run.checkpoints) == []


def test_a_loss_that_is_not_finite_is_found_at_its_very_step(index_path, tmp_path, monkeypatch):
    what = task(index_path, tmp_path, loading={"global_batch_size": 2})  # 20 steps an epoch, a log point every other
    loss, calls = objective.Loss.__call__, itertools.count()

    def overflow(self, *given):
        return loss(self, *given) * (torch.inf if next(calls) == 6 else 1.0)

    monkeypatch.setattr(objective.Loss, "__call__", overflow)
    with pytest.raises(TrainingError, match=r"The loss is inf at step 6, with a learning rate") as caught:
        train(what)
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        _, rows = reader.locate(what.plan(reader.index.digest).epoch(0, reader).step(6))
    assert f"on the samples {', '.join(map(str, rows['key']))}; " in str(caught.value)
    assert checkpoint.positions(what.run.checkpoints)[0] == 6


def test_a_wish_to_stop_leaves_a_checkpoint_of_the_next_step(index_path, tmp_path):
    """A log point is every other step here: the step after the wish is none."""
    fine = {"loading": {"global_batch_size": 2}, "epochs": 1}
    one, other = task(index_path, tmp_path / "one", **fine), task(index_path, tmp_path / "other", **fine)
    train(one)

    class Asking(Sink):
        def append(self, step, metrics, epoch=None):
            super().append(step, metrics, epoch)
            if step == 8:
                other.run.stop.touch()

    train(other, Asking())
    assert checkpoint.positions(other.run.checkpoints)[0] == 9
    assert not other.run.result.exists()
    train(other)  # while the wish stands nothing begins
    assert ledger.next_attempt(other.run.ledger) == 2
    other.run.stop.unlink()
    train(other)
    assert steps(other) == steps(one)
    mine, theirs = weights(other), weights(one)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    losses = [Result.read(each.run.result, made_by="train").history[0]["train_loss"] for each in (one, other)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


def test_the_last_epoch_has_its_checkpoint_however_slow_the_disk(index_path, tmp_path, monkeypatch):
    """The first is written until the last step is there; the second epoch's end passes by."""
    what = task(index_path, tmp_path, training={"checkpoint_every_seconds": 1e9})
    is_near, save = threading.Event(), checkpoint.save

    def slow(*arguments, **options):
        assert is_near.wait(60)
        return save(*arguments, **options)

    class Nearing(Sink):
        def append(self, step, metrics, epoch=None):
            super().append(step, metrics, epoch)
            if step == 3 * STEPS_PER_EPOCH:
                is_near.set()

    monkeypatch.setattr(checkpoint, "save", slow)
    train(what, Nearing())
    assert checkpoint.positions(what.run.checkpoints) == [3 * STEPS_PER_EPOCH, STEPS_PER_EPOCH]


def test_a_wish_to_stop_in_an_epochs_last_step_waits_for_its_validation(index_path, tmp_path):
    what = task(index_path, tmp_path)

    class Asking(Sink):
        def append(self, step, metrics, epoch=None):
            super().append(step, metrics, epoch)
            if "val/top1" in metrics:
                what.run.stop.touch()

    train(what, Asking())
    assert checkpoint.positions(what.run.checkpoints)[0] == STEPS_PER_EPOCH


def test_a_second_rank_0_waits_and_is_then_refused(index_path, tmp_path):
    what = task(index_path, tmp_path)
    with (
        sole_writer(what.run.writer),
        pytest.raises(LockedError, match=rf"still being trained in by process {os.getpid()} on .* after 0 s; end it"),
        sole_writer(what.run.writer, patience_seconds=0.0),
    ):
        pass
    with sole_writer(what.run.writer, patience_seconds=0.0):
        pass


def _rank(rank, what, rendezvous, sink=None):
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    os.environ.pop("OMP_NUM_THREADS", None)
    torch.set_num_threads(1)
    train_rank(what, Place(rank, 2, "cpu"), (sink or Sink()).open)
    assert torch.get_num_threads() == 1  # two ranks that each take every core hold each other up
    torch.distributed.destroy_process_group()


def test_two_ranks_take_the_same_samples_a_step_and_count_validation_once(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path)
    torch.multiprocessing.spawn(_rank, (what, tmp_path / "rendezvous"), nprocs=2)
    one, two = ledger.read(undisturbed.run.ledger), ledger.read(what.run.ledger)
    assert [(e.step, e.samples_digest, e.num_samples) for e in two] == [
        (e.step, e.samples_digest, e.num_samples) for e in one
    ]
    assert [e.keys for e in two] == [e.keys for e in one]
    result = Result.read(what.run.result, made_by="train")
    assert result.world_size == 2
    assert (result.validation["top1"] * 7) % 1 == pytest.approx(0, abs=1e-9)


class AskingSink(Sink):
    def __init__(self, path):
        super().__init__()
        self._path = path

    def append(self, step, metrics, epoch=None):
        if step == 7:
            self._path.touch()


def test_two_ranks_stop_after_the_same_step(index_path, tmp_path):
    what = task(index_path, tmp_path)
    torch.multiprocessing.spawn(_rank, (what, tmp_path / "rendezvous", AskingSink(what.run.stop)), nprocs=2)
    assert checkpoint.positions(what.run.checkpoints)[0] == 9  # asked after step 7's end, heard a step later
    assert [entry.step for entry in ledger.read(what.run.ledger)] == list(range(9))
    assert {entry.num_samples for entry in ledger.read(what.run.ledger)} == {8}


def test_a_network_that_learns_nothing_is_said(index_path, tmp_path):
    what = task(index_path, tmp_path, lr=1e-12)
    train(what)
    assert "collapse? " in what.run.notices.read_text()


def test_a_network_that_learns_is_not_called_collapsed(undisturbed):
    assert "collapse? " not in undisturbed.run.notices.read_text()


def test_a_step_formats_no_traceback(index_path, tmp_path, monkeypatch):
    """torch.manual_seed does, for devices that are not there, and takes as long as a small network's step."""
    formatted = []
    monkeypatch.setattr(traceback, "format_stack", lambda *args: formatted.append(1) or [])
    train(task(index_path, tmp_path, training={"ema_decay": 0.9}))
    assert len(formatted) < STEPS_PER_EPOCH

import errno
import os
import threading

import pytest
import torch

from pipeline.errors import StorageError
from pipeline.training import checkpoint, saving
from pipeline.training.saving import Moment, Saver, committing
from pipeline.training.stopping import StopRequestedError


class Net:
    """A state that changes in place, as weights do."""

    def __init__(self):
        self.weights = torch.zeros(1000)
        self.position = 0

    def step(self):
        self.weights += 1
        self.position += 1

    def state(self):
        nested = {"list": [self.weights, self.weights * 2], "pair": (self.position, 3)}
        return {"position": self.position, "nested": nested, "none": None}


@pytest.fixture
def said():
    return []


@pytest.fixture
def saver(tmp_path, said):
    return Saver(tmp_path, fingerprint="f", every_seconds=1e9, keep=3, say=said.append)


@pytest.fixture
def gate(monkeypatch):
    """Holds every write up until it is set."""
    gate, save = threading.Event(), checkpoint.save

    def later(*arguments, **options):
        assert gate.wait(60)
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", later)
    yield gate
    gate.set()


def test_what_is_written_is_the_state_of_its_moment(saver, tmp_path, gate):
    net = Net()
    net.step()
    saver.save(net.state, Moment.LAST)
    net.step()
    assert checkpoint.positions(tmp_path) == []  # training went on before it was written
    gate.set()
    saver.finish()
    found = checkpoint.load(tmp_path, 1)
    assert [set(each.tolist()) for each in found["nested"]["list"]] == [{1.0}, {2.0}]
    assert (found["nested"]["pair"], found["none"], found["fingerprint"]) == ((1, 3), None, "f")


def test_one_is_written_at_a_time_and_its_memory_is_used_again(saver, tmp_path, said):
    net, places = Net(), []
    for _ in range(3):
        net.step()
        saver.save(net.state, Moment.LAST)
        places.append([each.data_ptr() for each in saver._staging._tensors.values()])
    saver.finish()
    assert places[0] == places[1] == places[2]
    assert [checkpoint.load(tmp_path, k)["nested"]["list"][0][0].item() for k in (1, 2, 3)] == [1, 2, 3]
    assert said == []  # of waits that nobody notices


@pytest.mark.parametrize(("every_seconds", "moment"), [(1e9, Moment.LAST), (0.0, Moment.EPOCH), (0.0, Moment.STEP)])
def test_one_that_is_due_waits_for_the_one_before_and_says_so_meanwhile_and_at_the_end(
    tmp_path, gate, said, monkeypatch, every_seconds, moment
):
    now, is_told = 0.0, threading.Event()
    monkeypatch.setattr(saving, "NOTICEABLE_SECONDS", 0.0)
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)

    def say(text):
        said.append(text)
        is_told.set()

    saver, net = Saver(tmp_path, fingerprint="f", every_seconds=every_seconds, keep=3, say=say), Net()
    saver.save(net.state, moment)
    net.step()
    second = threading.Thread(target=saver.save, args=(net.state, moment))
    second.start()
    assert is_told.wait(60)
    assert second.is_alive()
    assert said == [f"training waits for a checkpoint that is still being written to {tmp_path}"]
    now = 12.0
    gate.set()
    second.join(60)
    assert said[1:] == [f"training stood still for 12 s until a checkpoint was written to {tmp_path}"]
    saver.finish()
    assert checkpoint.positions(tmp_path) == [1, 0]


def test_only_what_is_due_is_taken(tmp_path, saver):
    saver.save(Net().state, Moment.STEP)
    saver.finish()
    assert checkpoint.positions(tmp_path) == []


def test_a_tensor_that_changes_its_form_is_copied_as_it_is(saver, tmp_path):
    for position, tensor in enumerate([torch.ones(1), torch.ones(3), torch.full((3,), 0.5, dtype=torch.float64)]):
        saver.save(lambda position=position, tensor=tensor: {"position": position, "tensor": tensor}, Moment.LAST)
        saver.finish()
        found = checkpoint.load(tmp_path, position)["tensor"]
        assert (found.dtype, found.tolist()) == (tensor.dtype, tensor.tolist())


def test_the_time_until_the_next_is_counted_from_the_last(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)
    saver, net = Saver(tmp_path, fingerprint="f", every_seconds=10.0, keep=9, say=print), Net()
    for now in (9.0, 11.0, 20.0, 21.0):  # noqa: B007 - the clock
        net.step()
        saver.save(net.state, Moment.STEP)
    saver.finish()
    assert checkpoint.positions(tmp_path) == [4, 2]


def test_an_epochs_end_waits_for_no_disk_and_is_taken_when_none_is_being_written(saver, tmp_path, gate):
    net = Net()
    for _ in range(3):  # the first is being written, the others are passed over
        saver.save(net.state, Moment.EPOCH)
        net.step()
    gate.set()
    saver.wait()
    saver.save(net.state, Moment.EPOCH)
    saver.finish()
    assert checkpoint.positions(tmp_path) == [3, 0]


def full(descriptor):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_told_at_the_next_look_and_once(saver, tmp_path, monkeypatch):
    net = Net()
    saver.save(net.state, Moment.LAST)
    saver.finish()
    monkeypatch.setattr(os, "fsync", full)
    net.step()
    saver.save(net.state, Moment.LAST)
    saver.wait()
    with pytest.raises(StorageError, match=r"The checkpoint of step 1 cannot be written to .* \(No space left"):
        saver.check()
    saver.check()
    assert checkpoint.positions(tmp_path) == [0]


@pytest.mark.parametrize("end", [None, StopRequestedError(), KeyError("a bug")])
def test_what_was_taken_is_committed_when_the_run_ends(saver, tmp_path, gate, end):
    def run():
        with committing(saver):
            saver.save(Net().state, Moment.LAST)
            threading.Timer(0.05, gate.set).start()
            if end is not None:
                raise end

    if end is None:
        run()
    else:
        with pytest.raises(type(end)):
            run()
    assert checkpoint.positions(tmp_path) == [0]


@pytest.mark.parametrize(
    ("end", "told"), [(None, StorageError), (StopRequestedError(), StorageError), (KeyError(), KeyError)]
)
def test_a_last_one_that_fails_is_told_unless_something_else_went_wrong(saver, monkeypatch, end, told):
    monkeypatch.setattr(os, "fsync", full)

    def run():
        with committing(saver):
            saver.save(Net().state, Moment.LAST)
            if end is not None:
                raise end

    with pytest.raises(told):
        run()


def test_an_end_at_once_waits_for_nothing(saver, tmp_path, gate):
    def run():
        with committing(saver):
            saver.save(Net().state, Moment.LAST)
            raise SystemExit

    with pytest.raises(SystemExit):
        run()
    assert checkpoint.positions(tmp_path) == []

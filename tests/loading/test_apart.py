"""Batches from another process: the same as from this one, and no process is left or waited for in vain."""

import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import made_apart
import numpy as np
import pytest
import shard_sets
import torch
from made_apart import BATCH, batches_of, failing, open_apart
from small_runs import Sink, task

from pipeline.errors import ArtifactError, OutOfMemoryError, PeerLostError, TrainingError
from pipeline.loading.apart import NUM_SLOTS, Apart
from pipeline.loading.assembly import Pages
from pipeline.loading.device import MAX_UNDER_WAY
from pipeline.training import feed, fit, ledger
from pipeline.training.task import Place

NUM_SAMPLES = 120


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [50, 70], "validation": [8]}, side_px=48)


def seen(batches):
    """Of each batch, copied before it goes."""
    return [
        (batch.images_BCHW.clone(), batch.labels_B.clone(), batch.mask_B.clone(), batch.keys_B.copy())
        for batch in batches
    ]


def assert_equal(some, others):
    assert len(some) == len(others) > 0
    for (images, labels, mask, keys), (images_2, labels_2, mask_2, keys_2) in zip(some, others, strict=True):
        assert torch.equal(images, images_2)
        assert torch.equal(labels, labels_2)
        assert torch.equal(mask, mask_2)
        assert np.array_equal(keys, keys_2)


def is_gone(pid, seconds=10.0):
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)
    return True


def test_they_are_those_of_this_process_epoch_after_epoch_and_from_any_step(index_path):
    requests = [(0,), (1,), (2, 7), (3, 0, 24)]
    assert NUM_SAMPLES // BATCH > 2 * NUM_SLOTS, "each page is used again"
    with contextlib.closing(open_apart(batches_of, index_path)) as apart, batches_of(index_path, Pages()) as here:
        for request in requests:
            assert_equal(seen(apart.batches(*request)), seen(here(*request)))


def test_their_layout_is_what_a_network_wants_and_they_tell_the_loaders_work(index_path):
    with contextlib.closing(open_apart(batches_of, index_path)) as apart:
        batch = next(apart.batches(0))
        assert batch.images_BCHW.is_contiguous(memory_format=torch.channels_last)
        assert batch.work.decode > 0


def test_pages_are_not_written_while_their_batch_is_held(index_path):
    with contextlib.closing(open_apart(batches_of, index_path)) as apart:
        batches = apart.batches(0)
        held = [next(batches) for _ in range(3)]
        before = [batch.images_BCHW.clone() for batch in held]
        assert sum(1 for _ in batches) == NUM_SAMPLES // BATCH - len(held)
        assert all(torch.equal(batch.images_BCHW, images) for batch, images in zip(held, before, strict=True))


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("ours", ArtifactError, "train-000000.tar is not what it was"),
        ("a bug", ZeroDivisionError, "no loader divides by zero"),
        ("killed", OutOfMemoryError, "was killed, as systems do when memory runs out; free some, lower "),
        ("crashed", PeerLostError, "was ended by SIGSEGV; run the same command again to go on."),
        ("exit", TrainingError, "ended with 7; what it wrote before says why"),
    ],
)
def test_what_goes_wrong_there_is_raised_here(how, error, words):
    with contextlib.closing(open_apart(failing)) as apart:
        with pytest.raises(error, match=words) as raised:
            next(apart.batches(how))
        if how == "a bug":
            assert "In the process that loads batches" in raised.value.__notes__[0]
            assert "made_apart.py" in raised.value.__notes__[0]


def test_one_that_was_killed_between_two_epochs_is_missed_at_the_next(index_path):
    with contextlib.closing(open_apart(batches_of, index_path)) as apart:
        assert sum(1 for _ in apart.batches(0)) == NUM_SAMPLES // BATCH
        apart._process.kill()
        assert is_gone(apart._process.pid)
        with pytest.raises(OutOfMemoryError, match="was killed"):
            next(apart.batches(1))


def test_it_ends_when_it_is_closed_in_the_middle_of_an_epoch(index_path):
    apart = open_apart(batches_of, index_path)
    next(apart.batches(0))
    apart.close()
    assert apart._process.returncode == 0


def test_it_ends_with_a_process_that_was_killed(index_path):
    command = [sys.executable, made_apart.__file__, str(index_path)]
    paths = os.pathsep.join((str(Path(made_apart.__file__).parent), str(Path(feed.__file__).parents[2])))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}) as owner:
        pid = int(owner.stdout.readline())
        owner.kill()
    assert is_gone(pid)


def test_an_interruption_is_for_the_process_that_trains(index_path):
    with contextlib.closing(open_apart(batches_of, index_path)) as apart:
        batches = apart.batches(0)
        next(batches)
        for interruption in (signal.SIGINT, signal.SIGTERM):
            apart._process.send_signal(interruption)
        assert sum(1 for _ in batches) == NUM_SAMPLES // BATCH - 1
        assert sum(1 for _ in apart.batches(1)) == NUM_SAMPLES // BATCH


@contextlib.contextmanager
def epochs_apart(what, place, reader):
    made = partial(feed._epochs_there, what, place)
    with contextlib.closing(Apart(made, batch_bytes=8 * 32 * 32 * 3, device=torch.device("cpu"))) as apart:
        yield apart.batches


class SlowCopies:
    """As those to a GPU that is late: they hold their batches until somebody waits for them."""

    def __init__(self):
        self.held = []

    def start(self, batch):
        self.held = [*self.held, batch][-MAX_UNDER_WAY:]
        return batch

    def finish(self):
        self.held = []


@pytest.mark.timeout(120)  # with pages that nobody lets go it would wait for ever
def test_a_run_of_several_fits_lets_all_pages_go(index_path, tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "open_epochs", epochs_apart)
    monkeypatch.setattr(feed, "_copies_to", lambda place: SlowCopies())
    monkeypatch.setattr(feed, "Pages", lambda pinned: Pages())  # which only a GPU can lock
    what = task(index_path, tmp_path, epochs=4)
    gradual = what.transfer.model_copy(update={"mode": "gradual"})
    gc.disable()  # what old feeds hold must not be let go by chance
    try:
        fit.train_rank(replace(what, transfer=gradual), Place(0, 1, "cpu"), Sink().open)
    finally:
        gc.enable()
    assert what.run.result.exists()


def test_a_run_that_loads_apart_ends_with_the_same_bits(index_path, tmp_path, monkeypatch):
    changes = {"training": {"progressive_px": [24, 32, 32]}, "loading": {"decoded_cache_bytes": 10**7}}
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    here, there = (task(index_path, tmp_path / name, **changes) for name in ("here", "there"))
    fit.train_rank(here, Place(0, 1, "cpu"), Sink().open)
    monkeypatch.setattr(fit, "open_epochs", epochs_apart)
    fit.train_rank(there, Place(0, 1, "cpu"), Sink().open)
    assert ledger.read(there.run.ledger) == ledger.read(here.run.ledger)
    assert there.run.weights.read_bytes() == here.run.weights.read_bytes()

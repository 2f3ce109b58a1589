"""Which batch sizes are tried and which is chosen; the memory's figures are scripted, a GPU's end of memory too."""

import itertools

import pytest
import torch

from pipeline.errors import OutOfMemoryError
from pipeline.training import batch_sizes
from pipeline.training.batch_sizes import Measured


class Trial:
    """Takes steps of any size up to one."""

    device = torch.device("cpu")
    image_shape, label_shape = (3, 4, 4), ()

    def __init__(self, largest):
        self.sizes, self._largest = [], largest

    def step(self, batch, lr):
        assert lr == 0.0
        assert batch.images_BCHW.shape == (len(batch.labels_B), 3, 4, 4)
        self.sizes.append(len(batch.labels_B))
        if len(batch.labels_B) > self._largest:
            raise torch.OutOfMemoryError


@pytest.fixture
def peaks(monkeypatch):
    """Lets the process's peak be told: at the start, then after each size."""

    def script(*values):
        told = itertools.chain(values, itertools.repeat(values[-1]))
        monkeypatch.setattr(batch_sizes, "peak_bytes", lambda device: next(told))

    return script


def sizes(trial, free_bytes):
    return [each.batch_size_per_rank for each in batch_sizes.measure(trial, [8, 16, 32, 64], free_bytes)]


def test_every_size_is_tried_that_fits(peaks):
    peaks(100, 110, 120, 140, 180)
    trial = Trial(64)
    assert sizes(trial, 1000) == [8, 16, 32, 64]
    assert trial.sizes == [size for size in (8, 16, 32, 64) for _ in range(batch_sizes.NUM_STEPS)]


def test_it_ends_where_a_gpu_has_no_more(peaks):
    peaks(100)
    trial = Trial(16)
    assert sizes(trial, 1000) == [8, 16]
    assert trial.sizes[-1] == 32


def test_where_not_even_the_smallest_fits_the_way_out_is_said(peaks):
    peaks(100)
    with pytest.raises(OutOfMemoryError) as caught:
        sizes(Trial(4), 2_000_000_000)
    assert str(caught.value) == (
        "A step of 8 images does not fit into the 2.0 GB of memory that were free; lower model.input_px, take a "
        "smaller model.backbone, or free some memory, and run this again."
    )


def test_labels_have_the_form_of_the_set():
    forms = []

    class Noting(Trial):
        def step(self, batch, lr):
            forms.append((batch.labels_B.dtype, tuple(batch.labels_B.shape)))

    several = Noting(64)
    several.label_shape = (5,)
    for trial in (Noting(64), several):
        list(batch_sizes.measure(trial, [8], 1000))
    assert set(forms) == {(torch.int64, (8,)), (torch.uint8, (8, 5))}


def test_the_first_step_of_a_size_is_slower_and_does_not_count(peaks, monkeypatch):
    peaks(100)
    moments = itertools.chain.from_iterable(
        (number, number + (90.0 if number % 4 == 0 else 2.0)) for number in range(8)
    )
    monkeypatch.setattr(batch_sizes.time, "perf_counter", lambda: next(moments))
    rates = [each.images_per_second for each in batch_sizes.measure(Trial(16), [8, 16], 1000)]
    assert rates == [8 / 2.0, 16 / 2.0]


def test_what_the_next_would_take_is_judged_by_the_last_growth(peaks):
    peaks(100, 150, 160, 170, 180)  # what libraries take once comes with the first
    assert sizes(Trial(64), 200) == [8, 16, 32, 64]


def test_it_ends_before_the_memory_is_full(peaks):
    peaks(100, 110, 120, 140, 180)
    assert sizes(Trial(64), 90) == [8, 16, 32]  # 64 would bring it to 80, and 72 are allowed


def test_the_smallest_that_is_nearly_the_fastest_is_chosen():
    rates = {8: 50.0, 16: 94.0, 32: 96.0, 64: 100.0}
    assert batch_sizes.choose([Measured(*each, 0) for each in rates.items()]).batch_size_per_rank == 32


def test_the_peak_grows_with_what_the_process_holds():
    before = batch_sizes.peak_bytes(torch.device("cpu"))
    held = torch.ones(before // 4 + 50_000_000)
    assert batch_sizes.peak_bytes(torch.device("cpu")) - before > 0.5 * held.nbytes
    assert batch_sizes.free_bytes(torch.device("cpu")) > 0

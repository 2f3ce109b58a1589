"""Copies to a GPU, without one: when a batch's pages may be let go. What copies hold: tests/training/test_gpu.py."""

import contextlib
import weakref

import numpy as np
import pytest
import torch

from pipeline.loading.assembly import Batch, Pages
from pipeline.loading.device import MAX_UNDER_WAY, Copies


class Event:
    """Done when somebody has waited for it, or when it is told so."""

    def __init__(self):
        self.is_done = False
        self.waited: list[bool] = []
        self.page: weakref.ref | None = None

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.waited.append(self.page() is not None)
        self.is_done = True


@pytest.fixture
def events(monkeypatch):
    made = []

    class Stream:
        def __init__(self, device):
            pass

        def record_event(self):
            made.append(Event())
            return made[-1]

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    return made


def start(copies, pages, events):
    memory = pages.take((2, 4, 4, 3))
    batch = Batch(
        torch.from_numpy(memory).permute(0, 3, 1, 2),
        torch.zeros(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.bool),
        np.zeros(2, np.uint64),
    )
    copy = copies.start(batch)
    assert copy.ready is events[-1]
    events[-1].page = weakref.ref(memory)


def test_a_page_is_held_until_its_copy_is_done(events):
    copies, pages = Copies(torch.device("cpu")), Pages()
    for _ in range(MAX_UNDER_WAY):
        start(copies, pages, events)
    assert [event.page() is None for event in events] == [False] * MAX_UNDER_WAY
    events[0].is_done = events[1].is_done = True
    start(copies, pages, events)
    assert [event.page() is None for event in events] == [True, True, False, False]


def test_there_are_only_so_many_and_the_oldest_is_waited_for_before_its_page_goes(events):
    copies, pages = Copies(torch.device("cpu")), Pages()
    for _ in range(MAX_UNDER_WAY + 2):
        start(copies, pages, events)
    assert [event.waited for event in events] == [[True], [True]] + [[]] * MAX_UNDER_WAY
    assert [event.page() is None for event in events] == [True, True] + [False] * MAX_UNDER_WAY


def test_finished_copies_hold_nothing(events):
    copies, pages = Copies(torch.device("cpu")), Pages()
    for _ in range(2):
        start(copies, pages, events)
    copies.finish()
    assert [event.waited for event in events] == [[True], [True]]
    assert [event.page() is None for event in events] == [True, True]

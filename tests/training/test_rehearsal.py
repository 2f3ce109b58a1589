"""A rehearsal under a scripted clock: a loader that gets ahead when it has the time, beside steps of one length."""

import pytest
import torch

from pipeline.loading.batches import BATCHES_AHEAD
from pipeline.training import rehearsal
from pipeline.training.rehearsal import NUM_BATCHES

BATCH_SECONDS, STEP_SECONDS, FIRST_STEP_SECONDS = 0.5, 0.25, 30.0


class Trial:
    """Its loader makes a batch after the other until so many wait that it may not be further ahead."""

    def __init__(self):
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        self.now, self.num_steps = 0.0, 0
        self._num_waiting, self._done_at = 0, BATCH_SECONDS

    def batches(self, world_size):
        assert world_size == 4
        while True:
            self._load()
            if not self._num_waiting:
                self.now = self._done_at
                self._load()
            self._num_waiting -= 1
            yield torch.ones(16, 4)

    def step(self, batch, lr):
        assert lr == 0.0
        self.num_steps += 1
        self.now += STEP_SECONDS if self.num_steps > 1 else FIRST_STEP_SECONDS
        return self.network(batch).sum()

    def _load(self):
        while self._num_waiting <= BATCHES_AHEAD and self._done_at <= self.now:
            self._num_waiting += 1
            self._done_at += BATCH_SECONDS
        if self._num_waiting > BATCHES_AHEAD:
            self._done_at = self.now + BATCH_SECONDS


def test_no_rate_is_better_for_what_was_made_ahead(monkeypatch):
    trial = Trial()
    monkeypatch.setattr(rehearsal.time, "monotonic", lambda: trial.now)
    rates, kept_bytes = rehearsal.rehearse(trial, 4)
    assert rates.loader_seconds == pytest.approx(BATCH_SECONDS)
    assert rates.step_seconds == pytest.approx(STEP_SECONDS)
    # The first waits for its batch; after that, half of the loading goes on beside a step.
    assert rates.together_seconds == pytest.approx((NUM_BATCHES * BATCH_SECONDS + STEP_SECONDS) / NUM_BATCHES)
    assert kept_bytes == 16 * (4 + 8) * 4  # what went into the two layers, once; weights are not counted

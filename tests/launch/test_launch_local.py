"""The launcher without Ray; that a run really trains on a GPU is tests/training/test_gpu.py's."""

import pytest
import torch

from pipeline.launch import local


@pytest.mark.parametrize(("has_gpu", "device"), [(False, "cpu"), (True, "cuda:0")])
def test_its_rank_is_told_a_device_that_can_be_made_the_current_one(monkeypatch, has_gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    told = []
    local.launch(lambda *place: told.append(place))
    assert told == [(0, 1, device)]

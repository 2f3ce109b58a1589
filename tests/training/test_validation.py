"""Figures of validation: the same however the samples are divided among ranks, and by a second source."""

import math
import threading

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from pipeline.training.validation import MultiLabelValidation, SingleLabelValidation

NUM_SAMPLES, NUM_CLASSES = 37, 5


class Together:
    """Ranks that are threads: each hands in its tensor, and all are given those of all."""

    def __init__(self, world_size: int):
        self._barrier = threading.Barrier(world_size)
        self._tensors: dict[int, torch.Tensor] = {}

    def rank(self, rank: int) -> "Rank":
        return Rank(self, rank)

    def exchange(self, rank: int, tensor: torch.Tensor) -> torch.Tensor:
        self._tensors[rank] = tensor
        self._barrier.wait(10)
        every = torch.stack([self._tensors[each] for each in sorted(self._tensors)])
        self._barrier.wait(10)
        return every


class Rank:
    def __init__(self, together: Together, rank: int):
        self._together, self._rank = together, rank

    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "sum"
        return self._together.exchange(self._rank, tensor).sum(0)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._together.exchange(self._rank, tensor)


class Alone:
    """As Lightning has it for one rank: no dimension of ranks."""

    def reduce(self, tensor: torch.Tensor, reduce_op: str) -> torch.Tensor:
        return tensor

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def measure(validation, ranks, logits_NK, labels_N, rank=0, world_size=1, batch_size=4) -> dict[str, float]:
    """Every world_size-th sample; short ranks, and last batches, are filled up with padding that is wrong and sure."""
    validation.begin(torch.device("cpu"))
    mine = np.arange(rank, NUM_SAMPLES, world_size)
    longest = math.ceil(NUM_SAMPLES / world_size)
    num_rows = math.ceil(longest / batch_size) * batch_size
    for start in range(0, num_rows, batch_size):
        places = np.arange(start, start + batch_size)
        mask_B = torch.from_numpy(places < len(mine))
        rows = mine[np.minimum(places, len(mine) - 1)]
        logits_BK = torch.where(mask_B[:, None], logits_NK[rows], 50.0)
        validation.add(logits_BK, labels_N[rows], mask_B)
    return validation.end(ranks)


def in_threads(build, world_size: int, logits_NK, labels_N) -> list[dict[str, float]]:
    together, found = Together(world_size), {}

    def work(rank: int) -> None:
        found[rank] = measure(build(), together.rank(rank), logits_NK, labels_N, rank, world_size)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return [found[rank] for rank in range(world_size)]


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits_NK = torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=random)
    hot_NK = (torch.randn(NUM_SAMPLES, NUM_CLASSES, generator=random) + logits_NK > 0.5).to(torch.uint8)
    hot_NK[:, 3] = 0  # a class that no image has
    return logits_NK, hot_NK


def test_multi_label_figures_are_those_of_scikit_learn(case):
    logits_NK, hot_NK = case
    figures = measure(MultiLabelValidation(), Alone(), logits_NK, hot_NK)
    there = [0, 1, 2, 4]
    expected = average_precision_score(hot_NK[:, there].numpy(), logits_NK[:, there].numpy(), average="macro")
    assert figures["mean_ap"] == pytest.approx(expected)
    probabilities_NK = logits_NK.double().sigmoid().numpy()
    losses_NK = -np.where(hot_NK.numpy() == 1, np.log(probabilities_NK), np.log(1 - probabilities_NK))
    assert figures["loss"] == pytest.approx(losses_NK.mean(), rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_ranks_gives_every_rank_the_same_figures(case, world_size):
    logits_NK, hot_NK = case
    alone = measure(MultiLabelValidation(), Alone(), logits_NK, hot_NK)
    for figures in in_threads(MultiLabelValidation, world_size, logits_NK, hot_NK):
        assert figures["mean_ap"] == alone["mean_ap"]
        assert figures["loss"] == pytest.approx(alone["loss"], rel=1e-12)


def test_a_second_pass_knows_nothing_of_the_first(case):
    logits_NK, hot_NK = case
    validation = MultiLabelValidation()
    measure(validation, Alone(), -logits_NK, hot_NK)
    assert measure(validation, Alone(), logits_NK, hot_NK) == measure(
        MultiLabelValidation(), Alone(), logits_NK, hot_NK
    )


@pytest.mark.parametrize("world_size", [2, 3])
def test_single_labels_are_counted_once_over_all_ranks(case, world_size):
    logits_NK, _ = case
    labels_N = torch.arange(NUM_SAMPLES) % NUM_CLASSES
    validation = SingleLabelValidation(NUM_CLASSES)
    alone = measure(validation, Alone(), logits_NK, labels_N)
    assert alone["top1"] == pytest.approx((logits_NK.argmax(1) == labels_N).double().mean().item())
    assert validation.predicted_K == torch.bincount(logits_NK.argmax(1), minlength=NUM_CLASSES).tolist()
    for figures in in_threads(lambda: SingleLabelValidation(NUM_CLASSES), world_size, logits_NK, labels_N):
        assert figures == pytest.approx(alone)

"""Figures by hand, and beside what a real step leaves behind."""

import numpy as np
import pytest
import torch

from pipeline.loading.order import order
from pipeline.modeling import optimizer as optimizers
from pipeline.training import forecast
from pipeline.training.forecast import Memory, Rates


def network():
    """36 + 4 numbers of a kernel and its bias, 4 x 3 + 3 of a head."""
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("name", "momentum", "floats"), [("adamw", 0.9, 110), ("lamb", 0.9, 110), ("sgd", 0.9, 55), ("sgd", 0.0, 0)]
)
def test_what_an_optimizer_keeps_is_what_it_keeps_after_a_step(name, momentum, floats):
    model = network()
    built = optimizers.build(model, name=name, lr=0.1, weight_decay=0.1, momentum=momentum)
    model(torch.rand(2, 1, 3, 3)).sum().backward()
    built.step()
    kept = [value for state in built.state.values() for value in state.values() if torch.is_tensor(value)]
    assert sum(value.numel() for value in kept if value.ndim) == floats
    assert forecast.optimizer_floats(model.parameters(), name, momentum) == floats


def test_muon_keeps_one_number_of_matrices_and_two_of_the_rest():
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 32, 3), torch.nn.Flatten(), torch.nn.Linear(32, 16))
    built = optimizers.build(model, name="muon", lr=0.1, weight_decay=0.1, momentum=0.9)
    model(torch.rand(2, 8, 3, 3)).sum().backward()
    built.step()
    kept = [value for state in built.state.values() for value in state.values() if torch.is_tensor(value)]
    floats = 32 * 8 * 9 + 32 * 16 + 2 * (32 + 16)
    assert sum(value.numel() for value in kept if value.ndim) == floats
    assert forecast.optimizer_floats(model.parameters(), "muon", 0.9) == floats


def test_memory_of_a_rank_by_hand():
    model = network()
    model[0].requires_grad_(False)
    got = forecast.memory(
        model, optimizer="adamw", momentum=0.9, with_average=True, activations_bytes=1000, batch_bytes=100
    )
    assert got == Memory(weights=220, gradients=60, optimizer=120, average=220, activations=1000, batches=500)
    assert got.total == 2120
    assert forecast.checkpoints_bytes(got, keep=3) == 4 * (220 + 220 + 120) + 220
    assert forecast.checkpoints_bytes(got, keep=3, with_best=True) == 4 * (220 + 220 + 120 + 220) + 220
    assert forecast.checkpoints_bytes(got, keep=3, num_parts=2) == 2 * forecast.checkpoints_bytes(got, keep=3)


def test_shards_of_lanes_and_ranks_by_hand():
    # Four shards of 10, whatever their order: lanes of 20 hold two whole ones, lanes of 13 cut some.
    def steps(lanes, batch):
        return order([10] * 4, seed=0, epoch=0, digest="d", global_batch_size=batch, lanes=lanes)

    assert forecast.shards_per_lane(steps(2, 8)).tolist() == [2, 2]
    assert forecast.shards_per_lane(steps(3, 9)).tolist() == [2, 2, 2]
    assert forecast.shards_per_rank(steps(2, 8), 1).tolist() == [4]
    assert forecast.shards_per_rank(steps(2, 8), 2).tolist() == [2, 2]
    assert forecast.shards_per_rank(steps(2, 8), 4).tolist() == [2, 2, 2, 2]
    assert forecast.shards_per_rank(steps(4, 8), 2).tolist() == [2, 2]


@pytest.mark.parametrize("lanes", [1, 2, 3, 6])
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_a_rank_reads_no_other_shards_in_a_whole_epoch(lanes, world_size):
    sizes = [35, 150, 60, 25, 110, 200, 45]
    steps = order(sizes, seed=3, epoch=1, digest="d", global_batch_size=6, lanes=lanes)
    counted = forecast.shards_per_rank(steps, world_size)
    for rank in range(world_size):
        used = np.concatenate([steps.rank_step(step, rank, world_size) for step in range(steps.num_steps)])
        shards = np.unique(np.searchsorted(steps.shard_starts, used, side="right") - 1)
        assert len(shards) <= counted[rank] <= len(shards) + 1  # the last one may lie in the remainder


def test_time_and_cost_by_hand():
    rates = Rates(loader_seconds=0.05, step_seconds=0.3, together_seconds=0.32)
    seconds = forecast.run_seconds(rates, steps=1000, batch_size_per_rank=50, validations=10, validation_images=500)
    assert seconds == pytest.approx(1000 * 0.32 + 10 * 500 * 0.1 / 50)
    slow = Rates(loader_seconds=0.2, step_seconds=0.3, together_seconds=0.32)
    seconds = forecast.run_seconds(slow, steps=0, batch_size_per_rank=50, validations=1, validation_images=500)
    assert seconds == pytest.approx(500 * 0.2 / 50)
    growing = forecast.run_seconds(
        rates, steps=1000, batch_size_per_rank=50, validations=10, validation_images=500, areas=[0.1, 0.5, 1.0],
        validation_area=4.0,
    )  # fmt: skip
    assert growing == pytest.approx(1000 * (0.05 + 0.16 + 0.32) / 3 + 10 * 500 * 0.4 / 50)
    assert forecast.cost(7200, num_ranks=8, price_per_hour=2.5) == 40.0

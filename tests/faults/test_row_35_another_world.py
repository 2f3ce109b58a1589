"""Row 35: a run goes on with another world size, another number of loader workers, a patch of a library."""

import numpy as np
import pytest
import shard_sets
import torch
import yaml

from pipeline import params
from pipeline.errors import ParamsError
from pipeline.loading import augment
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.keyed import key_of, uniforms
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.modeling import objective

NUM_STEPS, RESUMED_AT, BATCH = 20, 7, 12
AUGMENTATION = Augmentation((0.5, 1.0), (0.75, 4 / 3), True, False, 0.3)


def steps_of(index_path, world_size, num_workers, first_step):
    """Each step's batches, one for each rank."""
    readers = [SplitReader(index_path, "train") for _ in range(world_size)]
    plan = order(readers[0].shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=BATCH, lanes=2)
    return zip(
        *(
            training_batches(
                reader, plan, AUGMENTATION, input_px=16, rank=rank, world_size=world_size, first_step=first_step,
                num_workers=num_workers,
            )
            for rank, reader in enumerate(readers)
        ),
        strict=True,
    )  # fmt: skip


def train(worlds):
    """Losses and sorted keys of the steps that (world size, loader workers, steps) in turn make."""
    index_path, *parts = worlds
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(8 * 14 * 14, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loss_of = objective.Loss("cross_entropy", label_smoothing=0.1, balance="none", class_counts=[1, 1])
    losses, keys, position = [], [], 0
    for world_size, num_workers, num_steps in parts:
        for _, ranks in zip(range(num_steps), steps_of(index_path, world_size, num_workers, position), strict=False):
            optimizer.zero_grad()
            mean = 0.0
            for batch in ranks:  # as DDP does: each rank's mean, then the mean over ranks
                pixels = objective.normalize(batch.images_BCHW, torch.full((3,), 0.5), torch.full((3,), 0.25))
                loss = loss_of(network(pixels), batch.labels_B) / world_size
                loss.backward()
                mean += loss.item()
            optimizer.step()
            losses.append(mean)
            keys.append(sorted(key for batch in ranks for key in batch.keys_B.tolist()))
            position += 1
    return losses, keys


@pytest.mark.parametrize(("world_size", "num_workers"), [(2, 2), (3, 0), (4, 3)])
def test_the_same_samples_a_step_and_the_same_losses(tmp_path, world_size, num_workers):
    index_path = shard_sets.write(tmp_path, {"train": [90, 60, 100]})
    losses, keys = train((index_path, (1, 0, NUM_STEPS)))
    other_losses, other_keys = train(
        (index_path, (1, 2, RESUMED_AT), (world_size, num_workers, NUM_STEPS - RESUMED_AT))
    )
    assert len(losses) == NUM_STEPS
    assert other_keys == keys
    assert other_losses == pytest.approx(losses, abs=1e-4)
    assert losses[-1] < losses[0]


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_the_start(tmp_path, repository):
    content = yaml.safe_load((repository / "params.yaml").read_text(encoding="utf-8"))
    content["loading"]["global_batch_size"], content["cluster"]["num_workers"] = 100, 8
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ParamsError, match=r"global_batch_size=100 is not divisible by the 8 ranks .*; use 96 or 104"):
        params.read(path)


def test_what_a_patch_of_a_library_must_not_change_is_pinned():
    """Which samples, which draws, which crops: literals, so that an update that moves them fails here and not in a run
    that was saved before it."""
    steps = order([40, 25, 35], seed=5, epoch=2, digest="d", global_batch_size=4, lanes=2, window=20)
    assert [steps.step(step).tolist() for step in (0, 24)] == [[55, 44, 66, 32], [20, 21, 98, 90]]
    draws = uniforms(key_of(steps.key, "augment"), np.array([7, 2**40], np.uint64), augment.NUM_DRAWS)
    assert draws[:, :2].tolist() == [
        [0.9065826735453711, 0.48711682955489344],
        [0.9125789159784327, 0.015631319598271243],
    ]
    views = augment.plan(AUGMENTATION, np.array([375, 64]), np.array([500, 64]), 16, draws)
    assert [(view.top, view.left, view.height, view.width, view.flip_horizontal) for view in views] == [
        (31, 24, 330, 437, True),
        (9, 22, 54, 41, False),
    ]

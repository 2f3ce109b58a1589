"""Row 15: any number of shards, ranks and loader workers, in training and in evaluation."""

from itertools import chain

import numpy as np
import pytest
import shard_sets
import torch

from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import evaluation_batches, training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.modeling.objective import evaluation_sums, normalize

SIZES = [11, 4, 7, 1, 9, 3, 5]
WORLDS = [1, 2, 3]
PLAIN = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0)


@pytest.fixture(scope="module", params=[1, 3, 5, 7])
def index_path(request, tmp_path_factory):
    sizes = SIZES[: request.param]
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": sizes, "validation": sizes}, num_classes=3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_ends_with_the_same_steps_in_every_world(index_path, num_workers):
    def keys_by_step(rank, world_size):
        reader = SplitReader(index_path, "train")
        steps = order(reader.shard_sizes, seed=0, epoch=2, digest="d", global_batch_size=6)
        made = training_batches(
            reader, steps, PLAIN, input_px=8, rank=rank, world_size=world_size, first_step=0, num_workers=num_workers
        )
        return [batch.keys_B.tolist() for batch in made]

    worlds = [[keys_by_step(rank, world_size) for rank in range(world_size)] for world_size in WORLDS]
    together = [[list(chain(*slices)) for slices in zip(*ranks, strict=True)] for ranks in worlds]
    assert together[0] == together[1] == together[2]
    assert len(together[0]) == sum(SplitReader(index_path, "train").shard_sizes) // 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_counts_each_sample_once_with_the_same_figures(index_path, num_workers):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    figures = []
    for world_size in WORLDS:
        sums, keys = torch.zeros(3, dtype=torch.float64), []
        for rank in range(world_size):
            for batch in evaluation_batches(
                index_path, "validation", input_px=8, batch_size=4, num_workers=num_workers, rank=rank,
                world_size=world_size,
            ):  # fmt: skip
                pixels = normalize(batch.images_BCHW, torch.full((3,), 0.5), torch.full((3,), 0.25))
                sums += evaluation_sums(network(pixels), batch.labels_B, batch.mask_B).detach()
                keys += batch.keys_B[batch.mask_B.numpy()].tolist()
        reader = SplitReader(index_path, "validation")
        assert sorted(keys) == sorted(reader.locate(np.arange(reader.num_samples))[1]["key"].tolist())
        assert int(sums[2]) == reader.num_samples
        figures.append(sums / sums[2])
    assert all(torch.allclose(each, figures[0], rtol=0, atol=1e-6) for each in figures)

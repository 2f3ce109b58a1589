"""Balanced sampling down to pixels: labels, keys and augmentation of what a rank is handed."""

from collections import Counter

import shard_sets
import torch

from pipeline.loading.augment import Augmentation
from pipeline.loading.balance import balanced_order
from pipeline.loading.batches import training_batches
from pipeline.loading.read import SplitReader

CROPPING = Augmentation((0.2, 1.0), (0.75, 4 / 3), True, False, 0.2)


def epoch(index_path, world_size=1):
    """The epoch's batches, the ranks' one after the other."""
    reader = SplitReader(index_path, "train")
    steps = balanced_order(
        reader.shard_class_counts, reader.labels, seed=0, epoch=0, digest="d", global_batch_size=12
    )  # fmt: skip
    ranks = [
        training_batches(
            reader, steps, CROPPING, input_px=16, rank=rank, world_size=world_size, first_step=0, num_workers=2
        )
        for rank in range(world_size)
    ]
    return [batch for step in zip(*ranks, strict=True) for batch in step]


def test_rare_classes_come_as_often_as_others_and_never_look_the_same_twice(tmp_path):
    labels = [0] * 40 + [1] * 2 + [2] * 30
    index_path = shard_sets.write(tmp_path, {"train": [30, 20, 22]}, num_classes=3, labels=labels)
    batches = epoch(index_path)
    assert [Counter(batch.labels_B.tolist()) for batch in batches] == [{0: 4, 1: 4, 2: 4}] * 6
    rare = {}
    for batch in batches:
        for key, image in zip(batch.keys_B.tolist(), batch.images_BCHW, strict=True):
            assert (key in (40, 41)) == (labels[key] == 1)
            if labels[key] == 1:
                rare.setdefault(key, []).append(image)
    assert {key: len(images) for key, images in rare.items()} == {40: 12, 41: 12}
    for images in rare.values():
        assert not any(torch.equal(one, other) for at, one in enumerate(images) for other in images[:at])


def test_the_same_pixels_for_any_world(tmp_path):
    index_path = shard_sets.write(tmp_path, {"train": [30, 20]}, num_classes=3)
    whole, halves = epoch(index_path), epoch(index_path, world_size=2)
    for step, batch in enumerate(whole):
        one, other = halves[2 * step : 2 * step + 2]
        assert torch.equal(torch.cat([one.images_BCHW, other.images_BCHW]), batch.images_BCHW)

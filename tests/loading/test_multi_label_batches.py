"""Batches of a multi-label set: every sample with its own labels, as a row of ones and zeros."""

import contextlib

import numpy as np
import pytest
import shard_sets
import torch

from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import evaluation_batches, training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

NUM_CLASSES = 10
LABELS = [sorted({number % NUM_CLASSES, number * 7 % NUM_CLASSES} - {number % 3}) for number in range(60)]
"""By sample key; some have none."""

HOT_NK = np.array([[label in each for label in range(NUM_CLASSES)] for each in LABELS], np.uint8)


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(
        tmp_path_factory.mktemp("shards"),
        {"train": [13, 9, 20], "validation": [11, 7]},
        num_classes=NUM_CLASSES,
        labels=LABELS,
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_training_batches_give_each_sample_its_labels(index_path, world_size):
    untouched = Augmentation((1.0, 1.0), (1.0, 1.0), horizontal_flip=False, vertical_flip=False, color_jitter=0.0)
    found = {}
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=6)
        for rank in range(world_size):
            for batch in training_batches(
                reader, steps, untouched, input_px=16, rank=rank, world_size=world_size, first_step=0, num_workers=2
            ):
                labels_BK = batch.labels_B
                assert labels_BK.dtype == torch.uint8
                found.update(zip(batch.keys_B.tolist(), labels_BK.tolist(), strict=True))
    assert found == {key: HOT_NK[key].tolist() for key in range(42)}


def test_evaluation_batches_do_too_and_padding_is_masked(index_path):
    made = evaluation_batches(index_path, "validation", input_px=16, batch_size=8, num_workers=0)
    rows = [
        (key, labels)
        for batch in made
        for key, labels, real in zip(batch.keys_B.tolist(), batch.labels_B.tolist(), batch.mask_B, strict=True)
        if real
    ]
    assert rows == [(key, HOT_NK[key].tolist()) for key in range(42, 60)]


def test_counts_are_of_every_class_and_sizes_of_samples(index_path):
    with contextlib.closing(SplitReader(index_path, "train")) as reader:
        assert reader.class_counts == HOT_NK[:42].sum(axis=0).tolist()
        assert reader.shard_sizes == [13, 9, 20]


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
def test_a_part_of_the_split_counts_the_classes_that_are_in_it(index_path, fraction):
    with contextlib.closing(SplitReader(index_path, "train", fraction=fraction)) as reader:
        keys = reader.locate(np.arange(reader.num_samples))[1]["key"]
        assert reader.num_samples == len(set(keys.tolist())) == sum(reader.shard_sizes)
        assert abs(reader.num_samples - fraction * 42) < 3
        assert reader.class_counts == HOT_NK[keys].sum(axis=0).tolist()


def test_a_smaller_part_lies_within_a_larger_one(index_path):
    parts = []
    for fraction in (0.3, 0.6):
        with contextlib.closing(SplitReader(index_path, "train", fraction=fraction)) as reader:
            parts.append(set(reader.locate(np.arange(reader.num_samples))[1]["key"].tolist()))
    assert parts[0] < parts[1]

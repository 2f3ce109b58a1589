import threading

import numpy as np
import psutil
import pytest
import shard_sets
import torch

from pipeline.errors import ArtifactError
from pipeline.imaging import region
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import evaluation_batches, training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

AUGMENTATION = Augmentation((0.5, 1.0), (0.75, 4 / 3), True, False, 0.2)


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [13, 9, 20], "validation": [7, 4]})


def epoch(index_path, *, epoch=0, rank=0, world_size=1, first_step=0, num_workers=0):
    reader = SplitReader(index_path, "train")
    steps = order(reader.shard_sizes, seed=0, epoch=epoch, digest="d", global_batch_size=8)
    made = training_batches(
        reader,
        steps,
        AUGMENTATION,
        input_px=16,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        num_workers=num_workers,
    )
    return [(batch.keys_B.tolist(), batch.images_BCHW, batch.labels_B.tolist()) for batch in made]


@pytest.mark.parametrize("num_workers", [0, 1, 3, 16])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_same_pixels_for_any_world_and_any_number_of_workers(index_path, num_workers, world_size):
    whole = epoch(index_path)
    ranks = [epoch(index_path, rank=rank, world_size=world_size, num_workers=num_workers) for rank in range(world_size)]
    for step, (keys, images, labels) in enumerate(whole):
        assert [key for rank in ranks for key in rank[step][0]] == keys
        assert torch.equal(torch.cat([rank[step][1] for rank in ranks]), images)
        assert [label for rank in ranks for label in rank[step][2]] == labels


def test_a_resume_gives_the_tail(index_path):
    whole, tail = epoch(index_path), epoch(index_path, first_step=3, num_workers=2)
    assert [keys for keys, _, _ in tail] == [keys for keys, _, _ in whole[3:]]
    assert all(torch.equal(one, other) for (_, one, _), (_, other, _) in zip(tail, whole[3:], strict=True))


def test_epochs_augment_differently(index_path):
    first = {key: image for keys, images, _ in epoch(index_path) for key, image in zip(keys, images, strict=True)}
    second = {
        key: image for keys, images, _ in epoch(index_path, epoch=1) for key, image in zip(keys, images, strict=True)
    }
    both = first.keys() & second.keys()
    assert len(both) > 20
    assert not any(torch.equal(first[key], second[key]) for key in both)


def test_batches_are_uint8_channels_last_with_the_table_s_labels(index_path):
    keys, images, labels = epoch(index_path)[0]
    assert images.dtype == torch.uint8
    assert images.shape == (8, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    # Labels alternate within the split, whose keys start at 0.
    assert labels == [key % 2 for key in keys]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_hands_out_every_sample_once(index_path, world_size, num_workers):
    per_rank = [
        list(
            evaluation_batches(
                index_path, "validation", input_px=16, batch_size=4, num_workers=num_workers, rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]  # fmt: skip
    assert len({len(batches) for batches in per_rank}) == 1
    keys = [key for batches in per_rank for batch in batches for key in batch.keys_B[batch.mask_B.numpy()].tolist()]
    assert sorted(keys) == list(range(42, 53))


def test_padding_is_black_and_masked(index_path):
    last = list(evaluation_batches(index_path, "validation", input_px=16, batch_size=4, num_workers=1))[-1]
    assert last.mask_B.tolist() == [True, True, True, False]
    assert last.images_BCHW[3].sum() == 0
    assert last.images_BCHW[2].sum() > 0


def test_an_error_in_a_worker_reaches_the_consumer_and_leaves_no_thread(tmp_path):
    index_path = shard_sets.write(tmp_path, {"train": [16]})
    tar = tmp_path / "train/train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        epoch(index_path, num_workers=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convoy-loader")]


def test_a_consumer_that_stops_early_leaves_no_thread(index_path):
    reader = SplitReader(index_path, "train")
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=8)
    made = training_batches(reader, steps, AUGMENTATION, input_px=16, rank=0, world_size=1, first_step=0, num_workers=2)
    next(made)
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("convoy-loader")]


def test_keys_are_numpy_so_that_ledgers_need_no_device(index_path):
    reader = SplitReader(index_path, "train")
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=8)
    made = training_batches(reader, steps, AUGMENTATION, input_px=16, rank=0, world_size=1, first_step=0, num_workers=0)
    assert next(made).keys_B.dtype == np.uint64


def test_memory_comes_back_when_a_batch_is_gone_and_not_before(index_path):
    reader = SplitReader(index_path, "train")
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=4)
    made = training_batches(reader, steps, AUGMENTATION, input_px=16, rank=0, world_size=1, first_step=0, num_workers=0)
    kept = next(made).images_BCHW[1:3]  # a view: the batch itself is gone
    before, place = kept.clone(), kept.untyped_storage().data_ptr()
    later = [batch.images_BCHW.untyped_storage().data_ptr() for batch in made]
    assert torch.equal(kept, before)
    assert place not in later
    assert (len(later), len(set(later))) == (9, 2)  # one is made while the last is looked at


@pytest.mark.parametrize("with_native_code", [True, False])
def test_a_long_run_grows_neither_memory_nor_descriptors(tmp_path, monkeypatch, with_native_code):
    if not with_native_code:
        monkeypatch.setattr(region, "_native", region.Native(False, "not built"))
    reader = SplitReader(shard_sets.write(tmp_path, {"train": [20] * 12}, side_px=96), "train")
    process = psutil.Process()
    seen = []
    for number in range(18):
        steps = order(reader.shard_sizes, seed=0, epoch=number, digest="d", global_batch_size=4)
        for _ in training_batches(
            reader, steps, AUGMENTATION, input_px=96, rank=0, world_size=1, first_step=0, num_workers=2
        ):
            pass
        seen.append((process.memory_info().rss, process.num_fds()))
    assert 18 * steps.num_steps > 1000
    (early_bytes, early_files), (late_bytes, late_files) = seen[3], seen[-1]
    assert late_files == early_files
    assert late_bytes - early_bytes < 8 * 1024**2  # a tenth of a megabyte a batch of 110 kB would be 75

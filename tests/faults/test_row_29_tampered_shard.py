"""Row 29: a shard, or the DVC cache object that it is a link to, or the index tampered with."""

import json
import os

import pytest
import shard_sets

from pipeline.errors import ArtifactError
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

NUM_SHARDS, PER_SHARD = 4, 12
PLAIN = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0)


def batches(index_path, window):
    reader = SplitReader(index_path, "train")
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=4, window=window)
    return steps, training_batches(reader, steps, PLAIN, input_px=8, rank=0, world_size=1, first_step=0, num_workers=2)


def tamper(path):
    """One bit, in a sample's pixels: still a tar, still a JPEG, the same size and the same time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[512 + 600] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("shard", range(NUM_SHARDS))
def test_no_sample_of_a_tampered_shard_is_handed_out(tmp_path, shard):
    index_path = shard_sets.write(tmp_path, {"train": [PER_SHARD] * NUM_SHARDS})
    tamper(tmp_path / f"train/train-{shard:06d}.tar")
    # A window of a shard: the tampered one comes first, last or in between.
    _, made = batches(index_path, PER_SHARD)
    seen = []
    with pytest.raises(ArtifactError, match=rf"train-{shard:06d}\.tar was changed after it was written"):
        seen += [key for batch in made for key in batch.keys_B.tolist()]
    assert not [key for key in seen if key // PER_SHARD == shard]


def test_under_a_full_shuffle_it_is_found_before_the_first_step(tmp_path):
    index_path = shard_sets.write(tmp_path / "cache", {"train": [PER_SHARD] * 2})
    tar = tmp_path / "cache/train/train-000001.tar"
    tar.rename(tmp_path / "object")
    tar.symlink_to(tmp_path / "object")  # as DVC links what it checks out
    tamper(tmp_path / "object")
    steps, made = batches(index_path, None)
    assert 1 in {number // PER_SHARD for number in steps.step(0).tolist()}
    with pytest.raises(ArtifactError, match="sha256"):
        next(made)


def leave_a_shard_out(index):
    index["splits"]["train"].pop()


def swap_two_classes(index):
    index["classes"].reverse()


@pytest.mark.parametrize("how", [leave_a_shard_out, swap_two_classes])
def test_a_tampered_index_is_found_before_the_first_step(tmp_path, how):
    """Every shard that it still lists is whole, so nothing but its own digest can tell."""
    index_path = shard_sets.write(tmp_path, {"train": [PER_SHARD] * 2})
    index = json.loads(index_path.read_text())
    how(index)
    index_path.write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=r"index\.json was changed: its digest is not that of its shards; run"):
        batches(index_path, None)

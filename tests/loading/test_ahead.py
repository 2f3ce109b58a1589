import contextlib
import hashlib
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import remote_shards
import shard_sets

from pipeline.errors import ParamsError, StorageError
from pipeline.loading import ahead, fetch
from pipeline.loading.ahead import check_cache, window_bytes
from pipeline.loading.augment import Augmentation
from pipeline.loading.balance import balanced_order
from pipeline.loading.batches import split_batches, training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

NUM_SHARDS, PER_SHARD, BATCH = 12, 8, 4
PLAIN = Augmentation((1.0, 1.0), (1.0, 1.0), False, False, 0.0)


@pytest.fixture
def store(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch, "WAITS_SECONDS", (0, 0))
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    with remote_shards.store() as store:
        yield store


@pytest.fixture
def index_path(tmp_path):
    return shard_sets.write(tmp_path / "set", {"train": [PER_SHARD] * NUM_SHARDS, "validation": [10, 5]})


@pytest.fixture
def remote(index_path, store):
    remote_shards.move(index_path, store.address, store.objects.__setitem__)
    return index_path


def the_order(reader, window=PER_SHARD, epoch=0, lanes=1):
    return order(
        reader.shard_sizes, seed=0, epoch=epoch, digest="d", global_batch_size=BATCH, window=window, lanes=lanes
    )


def epoch_of(reader, steps, rank=0, world_size=1):
    """The batches, with the lookahead that a run has."""
    lookahead = reader.look_ahead(steps.rank_step(step, rank, world_size) for step in range(steps.num_steps))
    made = training_batches(
        reader, steps, PLAIN, input_px=8, rank=rank, world_size=world_size, first_step=0, num_workers=2
    )
    for batch in made:
        lookahead.advance()
        yield batch


def in_order_of_need(reader, steps):
    numbers = np.concatenate([steps.step(step) for step in range(steps.num_steps)])
    shards = (numbers // PER_SHARD).tolist()
    return [reader.shards[shard].tar_object for shard in dict.fromkeys(shards)]


def bytes_in(folder):
    total = 0
    for path in folder.glob("*.*"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            total += path.stat().st_size
    return total


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came to that")


def test_shards_at_an_address_give_the_same_batches(index_path, store):
    reader = SplitReader(index_path, "train")
    here = list(epoch_of(reader, the_order(reader)))
    reader.close()
    remote_shards.move(index_path, store.address, store.objects.__setitem__)
    reader = SplitReader(index_path, "train")
    there = list(epoch_of(reader, the_order(reader)))
    reader.close()
    assert len(here) == NUM_SHARDS * PER_SHARD // BATCH
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.keys_B, other.keys_B)
        assert one.images_BCHW.equal(other.images_BCHW)


def test_they_are_fetched_ahead_once_each_in_the_order_of_their_need(remote, store, monkeypatch):
    monkeypatch.setattr(ahead, "NUM_FETCHERS", 1)
    reader = SplitReader(remote, "train")
    steps = the_order(reader)
    reader.look_ahead(steps.step(step) for step in range(steps.num_steps))
    wait_until(lambda: len(store.order) == 2 * NUM_SHARDS)
    assert [name for name in store.order if name.endswith(".tar")] == in_order_of_need(reader, steps)
    assert set(store.asked.values()) == {1}
    reader.close()


def test_no_more_is_held_than_the_cache_takes_and_nothing_is_fetched_twice(remote, store, tmp_path):
    tars = [shard.num_bytes for shard in remote_shards.shards_of(remote)[:NUM_SHARDS]]
    limit = 5 * max(tars)
    reader = SplitReader(remote, "train", limit)
    most = 0
    for _ in epoch_of(reader, the_order(reader)):
        most = max(most, bytes_in(tmp_path / "cache"))
    assert not reader.shelf._cache._names, "at the end of the last epoch everything may go"
    reader.close()
    assert {store.asked[name] for name in store.objects if store.asked[name]} == {1}
    # Tars come in the order of need, as room allows; a table that a reader waits for comes at once, whatever is held.
    tables = sum(len(data) for name, data in store.objects.items() if name.endswith(".npy"))
    assert most <= limit + tables < sum(tars)


def test_ranks_of_one_machine_fetch_a_shard_once(remote, store):
    readers = [SplitReader(remote, "train") for _ in range(2)]
    steps = the_order(readers[0])
    keys = []
    for batches in zip(*(epoch_of(reader, steps, rank, 2) for rank, reader in enumerate(readers)), strict=True):
        keys += [key for batch in batches for key in batch.keys_B.tolist()]
    for reader in readers:
        reader.close()
    assert sorted(keys) == list(range(NUM_SHARDS * PER_SHARD))
    assert max(store.asked.values()) == 1


def test_a_lane_is_a_unit_of_locality(remote, store):
    """With a lane for each of two ranks, a rank fetches about half of the shards."""
    reader = SplitReader(remote, "train")
    list(epoch_of(reader, the_order(reader, lanes=2), rank=0, world_size=2))
    reader.close()
    assert len([name for name in store.asked if name.endswith(".tar")]) <= NUM_SHARDS // 2 + 1


def test_a_second_reader_finds_the_shards_in_the_cache(remote, store):
    for _ in range(2):
        reader = SplitReader(remote, "validation")
        batches = list(split_batches(reader, input_px=8, batch_size=4, num_workers=1))
        assert sum(int(batch.mask_B.sum()) for batch in batches) == 15
        reader.close()
    assert max(store.asked.values()) == 1


def test_what_cannot_be_fetched_is_told_when_it_is_needed_and_not_before(remote, store):
    reader = SplitReader(remote, "train")
    steps = the_order(reader)
    lost = in_order_of_need(reader, steps)[-1]
    store.fault = lambda name, times: 503 if name == lost else None
    seen = []
    with pytest.raises(StorageError, match=lost):
        seen.extend(key for batch in epoch_of(reader, steps) for key in batch.keys_B.tolist())
    assert len(seen) >= (NUM_SHARDS - 1) * PER_SHARD - 4 * BATCH
    reader.close()


def test_shards_on_disk_are_verified_before_they_are_due(index_path, monkeypatch):
    hashed, file_digest = [], hashlib.file_digest

    def noting(file, name):
        hashed.append(Path(f"/proc/self/fd/{file.fileno()}").readlink().stem)
        return file_digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    reader = SplitReader(index_path, "train")
    steps = the_order(reader)
    reader.look_ahead(steps.step(step) for step in range(steps.num_steps))
    wait_until(lambda: len(hashed) == NUM_SHARDS)
    number = {shard.tar_object: shard.name.rpartition("/")[2] for shard in reader.shards}
    assert hashed == [number[name] for name in in_order_of_need(reader, steps)]
    assert len(list(epoch_of(reader, steps))) == steps.num_steps
    assert len(hashed) == NUM_SHARDS, "once each"
    reader.close()


def test_no_more_is_verified_ahead_than_the_page_cache_is_sure_to_keep(index_path, monkeypatch):
    monkeypatch.setattr(ahead, "VERIFY_AHEAD_BYTES", 1)
    monkeypatch.setattr(ahead, "MIN_STEPS_AHEAD", 2)
    reader = SplitReader(index_path, "train")
    steps, seen = the_order(reader), []
    lookahead = reader.look_ahead(
        seen.append(step) or steps.step(step) for step in range(steps.num_steps)
    )  # two steps to a shard
    for over in range(6):
        wait_until(lambda over=over: len(seen) >= over + 2)
        assert len(seen) == over + 2
        lookahead.advance()
    reader.close()


def test_a_cache_that_is_smaller_than_what_is_shuffled_together_is_refused(remote):
    reader = SplitReader(remote, "train")
    total = sum(shard.num_bytes for shard in reader.shards)
    whole = the_order(reader, window=None)
    check_cache(whole, reader.shards, total, 1)
    check_cache(whole, reader.shards, None, 1)
    with pytest.raises(ParamsError, match=rf"loading.cache_bytes={total - 1} cannot hold .* {total} bytes for windows"):
        check_cache(whole, reader.shards, total - 1, 1)
    check_cache(the_order(reader, window=PER_SHARD), reader.shards, total // 4, 1)
    reader.close()


@pytest.mark.parametrize(("lanes", "window"), [*itertools.product([1, 2, 4], [3, 8, 20, None])])
def test_window_bytes_is_the_most_that_any_window_touches(lanes, window):
    sizes = [5, 9, 1, 7, 30, 2, 8, 8, 4, 4]
    steps = order(sizes, seed=1, epoch=2, digest="d", global_batch_size=4, lanes=lanes, window=window)
    shard_bytes = np.array([10 * size + 1 for size in sizes])
    shard_of_place = np.repeat(steps.shard_permutation, np.array(sizes)[steps.shard_permutation])
    samples_per_lane = steps.num_samples // lanes
    most = 0
    for start in range(0, samples_per_lane, steps.window):
        touched = 0
        for lane in range(lanes):
            places = np.arange(start, min(start + steps.window, samples_per_lane)) + lane * samples_per_lane
            touched += shard_bytes[np.unique(shard_of_place[places])].sum()
        most = max(most, touched)
    assert window_bytes(steps, shard_bytes, lanes) == most


def test_a_balanced_order_needs_every_shard_at_once(remote):
    reader = SplitReader(remote, "train")
    total = sum(shard.num_bytes for shard in reader.shards)
    steps = balanced_order(
        reader.shard_class_counts, reader.labels, seed=0, epoch=0, digest="d", global_batch_size=BATCH
    )
    with pytest.raises(ParamsError, match=f"{total} bytes for loading.sampling: balanced, which draws from all"):
        check_cache(steps, reader.shards, total - 1, 1)
    reader.close()

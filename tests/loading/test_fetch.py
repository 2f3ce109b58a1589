import hashlib
from pathlib import Path

import pytest
import remote_shards

from pipeline import stores
from pipeline.errors import ArtifactError, StorageError
from pipeline.loading import fetch as fetching
from pipeline.loading.fetch import fetch

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
FULL = Path("/dev/full")


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(fetching, "PART_BYTES", 1000)
    monkeypatch.setattr(fetching, "WAITS_SECONDS", (0, 0, 0))
    with remote_shards.store() as store:
        store.objects["a.tar"] = DATA
        yield store


def bring(store, path, name="a.tar", **changes):
    path.touch()
    fetch(f"{store.address}/{name}", path, **{"what": "a shard", "num_bytes": len(DATA), "sha256": SHA256} | changes)
    return path.read_bytes()


def test_an_object_comes_in_parts_and_a_small_one_whole(store, tmp_path):
    assert bring(store, tmp_path / "a") == DATA
    assert store.asked["a.tar"] == 11
    assert bring(store, tmp_path / "b", num_bytes=None) == DATA
    assert store.asked["a.tar"] == 12


@pytest.mark.parametrize("fault", [503, 500, 429, "short", "reset"])
def test_only_the_part_that_broke_off_is_asked_for_again(store, tmp_path, fault):
    store.fault = lambda name, times: fault if times in (3, 4, 9) else None
    assert bring(store, tmp_path / "a") == DATA
    assert store.asked["a.tar"] == 11 + 3


def test_a_store_that_says_nothing_is_asked_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "SILENCE_SECONDS", 0.2)
    store.fault = lambda name, times: "slow" if times == 2 else None
    assert bring(store, tmp_path / "a") == DATA
    assert store.asked["a.tar"] == 12


def test_a_store_that_stays_down_is_named_after_a_bounded_number_of_attempts(store, tmp_path):
    store.fault = lambda name, times: 503
    with pytest.raises(
        StorageError, match=r"^a shard does not come: http://127.0.0.1:\d+/set/a.tar cannot be read: 503.*\(4 "
    ):
        bring(store, tmp_path / "a")
    assert store.asked["a.tar"] == 4


def test_other_bytes_are_asked_for_again_and_never_taken(store, tmp_path):
    store.fault = lambda name, times: "flip" if times == 1 else None
    assert bring(store, tmp_path / "a") == DATA
    store.fault = lambda name, times: "flip"
    with pytest.raises(ArtifactError, match=r"^a shard is not what the index lists: .*/set/a.tar came 2 times"):
        bring(store, tmp_path / "a")


def test_an_object_that_is_gone_is_named_at_once_without_secrets(store, tmp_path):
    with pytest.raises(ArtifactError, match=r"^a shard is gone: .*/set/b.tar does not exist any more") as caught:
        bring(store, tmp_path / "a", name="b.tar?sig=hunter2")
    assert "hunter2" not in str(caught.value)
    assert store.asked["b.tar"] == 1


def test_a_full_disk_is_told_with_the_way_out(store):
    with pytest.raises(
        StorageError, match=r"a shard cannot be written to /dev \(No space left on device\).*CONVOY_CACHE"
    ):
        fetch(f"{store.address}/a.tar", FULL, what="a shard", num_bytes=len(DATA), sha256=SHA256)


def test_a_reader_that_is_closed_waits_for_no_more_parts(store, tmp_path):
    with pytest.raises(StorageError, match="was being fetched when its reader was closed"):
        bring(store, tmp_path / "a", is_over=lambda: store.asked["a.tar"] == 2)
    assert store.asked["a.tar"] == 2

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import shard_sets

from pipeline.errors import ArtifactError
from pipeline.loading import read
from pipeline.loading.read import SplitReader


@pytest.fixture
def index_path(tmp_path):
    return shard_sets.write(tmp_path, {"train": [5, 3, 4]})


def test_every_number_finds_its_sample(index_path):
    reader = SplitReader(index_path, "train")
    shards, rows = reader.locate(np.arange(12))
    assert rows["key"].tolist() == list(range(12))
    assert shards.tolist() == [0] * 5 + [1] * 3 + [2] * 4
    for shard, row in zip(shards, rows, strict=True):
        assert reader.image_bytes(int(shard), row).startswith(b"\xff\xd8")
    reader.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_damage_is_found_before_the_first_sample(index_path, damage):
    tar = index_path.parent / "train/train-000001.tar"
    data = bytearray(tar.read_bytes())
    if damage == "gone":
        tar.unlink()
    elif damage == "cut":
        tar.write_bytes(data[: 512 * 8])
    else:
        data[700] ^= 1
        tar.write_bytes(data)
    reader = SplitReader(index_path, "train")
    shards, rows = reader.locate(np.array([0, 6]))
    reader.image_bytes(int(shards[0]), rows[0])
    wanted = "is missing" if damage == "gone" else "was changed after it was written"
    with pytest.raises(ArtifactError, match=rf"train-000001\.tar {wanted}"):
        reader.image_bytes(int(shards[1]), rows[1])


@pytest.fixture
def reopening(tmp_path, monkeypatch):
    """A reader that has one tar open at a time, after it has read the first two: it has to open the first again."""
    monkeypatch.setattr(read, "MAX_OPEN_SHARDS", 1)
    reader = SplitReader(shard_sets.write(tmp_path, {"train": [5, 3]}), "train")
    shards, rows = reader.locate(np.array([0, 6]))
    for shard, row in zip(shards, rows, strict=True):
        reader.image_bytes(int(shard), row)
    yield reader, lambda: reader.image_bytes(0, rows[0])
    reader.close()


def write_the_same_anew(tar: Path) -> None:
    """As `convoy shard` does when nothing changed: the bytes are the same, the file is another."""
    data = tar.read_bytes()
    tar.unlink()
    tar.write_bytes(data)


def flip_a_bit(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)


def put_another_in_its_place(tar: Path) -> None:
    """Of the same size and time."""
    before, data = tar.stat(), bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.with_suffix(".other").write_bytes(data)
    tar.with_suffix(".other").replace(tar)
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "how"), [(flip_a_bit, "changed"), (put_another_in_its_place, "changed"), (Path.unlink, "removed")]
)
def test_a_shard_that_another_was_put_in_the_place_of_is_not_read(reopening, change, how):
    reader, read_again = reopening
    descriptors = _num_descriptors()
    change(reader.index_path.parent / "train/train-000000.tar")
    with pytest.raises(ArtifactError) as caught:
        read_again()
    assert str(caught.value) == (
        f"{reader.index_path.parent}/train/train-000000.tar was {how} while the shards were read; let training end "
        "before the shards are made anew, and run the same command again."
    )
    assert _num_descriptors() == descriptors


def test_a_shard_that_was_written_anew_with_the_same_bytes_is_read_on(reopening):
    reader, read_again = reopening
    before = read_again()
    reader.image_bytes(1, reader.locate(np.array([6]))[1][0])
    write_the_same_anew(reader.index_path.parent / "train/train-000000.tar")
    assert read_again() == before


def test_each_shard_is_hashed_once_however_often_it_is_opened(reopening, monkeypatch):
    _, read_again = reopening
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    read_again()


def test_another_table_is_refused(index_path):
    table = index_path.parent / "train/train-000000.npy"
    rows = np.load(table)
    rows["label"] = 1 - rows["label"]
    np.save(table, rows)
    with pytest.raises(ArtifactError, match=r"train-000000\.npy is not the table that the index lists"):
        SplitReader(index_path, "train").locate(np.array([0]))


def test_a_tar_cut_after_it_was_verified_is_found(index_path):
    reader = SplitReader(index_path, "train")
    shards, rows = reader.locate(np.array([4]))
    reader.image_bytes(int(shards[0]), rows[0])
    with open(index_path.parent / "train/train-000000.tar", "r+b") as file:
        file.truncate(1024)
    with pytest.raises(ArtifactError, match="was cut while it was read"):
        reader.image_bytes(int(shards[0]), rows[0])


def test_descriptors_stay_bounded_with_many_shards_and_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_OPEN_SHARDS", 3)
    reader = SplitReader(shard_sets.write(tmp_path, {"train": [2] * 20}), "train")
    before = _num_descriptors()
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 5))
    shards, rows = reader.locate(numbers)
    with ThreadPoolExecutor(8) as executor:
        images = list(executor.map(lambda at: reader.image_bytes(int(shards[at]), rows[at]), range(len(numbers))))
    assert _num_descriptors() - before <= 3
    by_number = {}
    for number, image in zip(numbers.tolist(), images, strict=True):
        assert by_number.setdefault(number, image) == image
    reader.close()
    assert _num_descriptors() == before


def test_json_members_lie_where_the_table_says(index_path):
    reader = SplitReader(index_path, "train")
    _, rows = reader.locate(np.array([7]))
    with open(index_path.parent / "train/train-000001.tar", "rb") as file:
        file.seek(int(rows[0]["json_offset"]))
        assert json.loads(file.read(int(rows[0]["json_bytes"])))["path"].endswith("000000007.jpg")


def test_tables_stay_bounded_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_TABLE_BYTES", 100)
    reader = SplitReader(shard_sets.write(tmp_path, {"train": [2] * 6}), "train")
    for _ in range(2):
        _, rows = reader.locate(np.arange(12))
        assert rows["key"].tolist() == list(range(12))
        assert sum(table.nbytes for table in reader._tables.values()) == reader._table_bytes <= 100


def _num_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))

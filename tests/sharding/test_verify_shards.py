"""Damage to a shard set, one kind at a time: always found, always named."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import build, two_classes

from pipeline.artifacts import Index, index_digest
from pipeline.errors import ArtifactError
from pipeline.sample_table import read_sample_table
from pipeline.sharding.index import all_shards
from pipeline.sharding.verify import verify_shard_set


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build(two_classes(folder / "source", 20), folder / "shards")
    return folder / "shards"


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "shards")
    return tmp_path / "shards"


def verify(folder: Path) -> Index:
    return verify_shard_set(folder / "index.json", lambda count: None)


def change_index(folder: Path, change) -> None:
    content = json.loads((folder / "index.json").read_text())
    change(content)
    (folder / "index.json").write_text(json.dumps(content))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def first_row(folder: Path):
    index = Index.read(folder / "index.json", "shard")
    return read_sample_table(folder / "index.json", index.splits["train"][0])[0]


def test_a_whole_set_passes_and_its_samples_are_counted(folder):
    done = []
    index = verify_shard_set(folder / "index.json", done.append)
    assert sum(done) == 40 == index.num_records


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_anywhere_in_a_tar_or_a_table_is_found(whole, data):
    path = data.draw(st.sampled_from(sorted([*whole.glob("*/*.tar"), *whole.glob("*/*.npy")])))
    before = path.read_bytes()
    try:
        flip(path, data.draw(st.integers(0, len(before) - 1)))
        with pytest.raises(ArtifactError, match=rf"{path.stem}.*; run `convoy shard` again") as caught:
            verify(whole)
        assert str(path) in str(caught.value)
    finally:
        path.write_bytes(before)


def test_changed_image_bytes(folder):
    flip(folder / "train/train-000000.tar", int(first_row(folder)["image_offset"]) + 5)
    with pytest.raises(ArtifactError, match=r"train-000000.tar is damaged: its headers are whole, but bytes between"):
        verify(folder)


def test_a_changed_header(folder):
    flip(folder / "train/train-000000.tar", 3)
    with pytest.raises(ArtifactError, match=r"is damaged: 000000000.jpg at byte 0 has no valid header \(bad"):
        verify(folder)


def test_a_changed_label(folder):
    row = first_row(folder)
    label_offset = int(row["json_offset"]) - 2 * 512
    flip(folder / "train/train-000000.tar", label_offset)
    with pytest.raises(ArtifactError, match=rf"000000000.cls at byte {label_offset - 512} does not hold the label"):
        verify(folder)


def test_members_in_another_order(folder):
    path = folder / "train/train-000000.tar"
    data = path.read_bytes()
    cls = int(first_row(folder)["json_offset"]) - 3 * 512
    swapped = data[:cls] + data[cls + 1024 : cls + 1536] + data[cls : cls + 1024] + data[cls + 1536 :]
    path.write_bytes(swapped)
    with pytest.raises(ArtifactError, match=rf"000000000.cls at byte {cls} is '000000000.json' instead"):
        verify(folder)


def test_a_shard_cut_on_a_member_border(folder):
    path = folder / "test/test-000000.tar"
    num_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes()[: num_bytes - 10240])
    with pytest.raises(ArtifactError, match=rf"has {num_bytes - 10240} bytes, the index says {num_bytes}"):
        verify(folder)


def test_a_missing_tar_and_a_missing_table(folder):
    (folder / "test/test-000000.tar").rename(folder / "aside")
    with pytest.raises(ArtifactError, match=r"test-000000.tar is missing; run `convoy shard` again"):
        verify(folder)
    (folder / "aside").rename(folder / "test/test-000000.tar")
    (folder / "test/test-000000.npy").unlink()
    with pytest.raises(ArtifactError, match=r"test-000000.npy is missing"):
        verify(folder)


def test_a_tar_that_the_index_does_not_know(folder):
    shutil.copyfile(folder / "train/train-000000.tar", folder / "train/train-000099.tar")
    with pytest.raises(ArtifactError, match=r"train/train-000099.tar is not in the index; move it elsewhere"):
        verify(folder)


def test_an_index_whose_shards_were_changed(folder):
    change_index(folder, lambda index: index["splits"]["train"].pop())
    with pytest.raises(ArtifactError, match=r"index.json was changed: its digest is not that of its shards"):
        verify(folder)


def test_an_index_whose_counts_do_not_add_up(folder):
    change_index(folder, lambda index: index.update(num_records=41))
    with pytest.raises(ArtifactError, match=r"counts 40 samples and 0 rejects, but 41 records"):
        verify(folder)


def test_an_index_with_other_class_counts(folder):
    def move_one(index: dict) -> None:
        counts = index["splits"]["train"][0]["class_counts"]
        counts[:] = [counts[0] + 1, counts[1] - 1]

    change_index(folder, move_one)
    with pytest.raises(ArtifactError, match=r"counts other classes in train/train-000000 than its table"):
        verify(folder)


@pytest.mark.parametrize("tombstones", [[1, 0], [0, 0], [99], [-1]])
def test_tombstones_that_are_no_rows(folder, tombstones):
    def remove(index: dict) -> None:
        shard = index["splits"]["train"][0]
        shard["tombstones"] = tombstones
        shard["num_samples"] -= len(tombstones)
        index["digest"] = index_digest(index["classes"], all_shards(Index(**index).splits))
        index["num_records"] -= len(tombstones)

    change_index(folder, remove)
    with pytest.raises(ArtifactError, match=r"has tombstones in train/train-000000 that are not rows of its table"):
        verify(folder)


def test_no_index(tmp_path):
    with pytest.raises(ArtifactError, match=r"index.json does not exist; run `convoy shard` first"):
        verify(tmp_path)

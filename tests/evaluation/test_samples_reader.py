import contextlib

import pytest

from pipeline.errors import ArtifactError
from pipeline.evaluation.samples import read_images, read_samples
from pipeline.loading.read import SplitReader


def opened(index_path):
    return SplitReader(index_path, "test").opened


def sample(encoded, key, label=0, **about):
    about = {
        "path": f"photos/{key}.jpg",
        "sha256": "",
        "width": 32,
        "height": 24,
        "group": None,
        "metadata": {},
        **about,
    }
    return {"key": key, "image": encoded((key % 256, 0, 0)), "label": label, "about": about}


@pytest.fixture
def shards(tmp_path, write_shards, encoded):
    path = 'a"b\\\\<i>\n.jpg'
    samples = [sample(encoded, key) for key in (7, 3, 5, 1)]
    samples.append(sample(encoded, 2, path=path, metadata={"camera": "x", "iso": 400, "other": "left out"}))
    index = write_shards(tmp_path, ["a", "b"], {"test": samples}, metadata_columns=["camera", "iso"], per_shard=2)
    return tmp_path / "index.json", index, path


def test_samples_of_all_tars_come_sorted_by_key_with_their_metadata(shards):
    index_path, index, path = shards
    table = read_samples(opened(index_path), index, "test")
    assert table.column_names == ["key", "path", "width", "height", "slice_camera", "slice_iso"]
    assert table["key"].to_pylist() == [1, 2, 3, 5, 7]
    assert table.slice(1, 1).to_pylist() == [
        {"key": 2, "path": path, "width": 32, "height": 24, "slice_camera": "x", "slice_iso": "400"}
    ]
    assert table["slice_camera"].to_pylist() == [None, "x", None, None, None]


def test_images_are_read_by_key_from_their_tars(shards, encoded):
    index_path, index, _ = shards
    assert read_images(opened(index_path), index, "test", [5, 7]) == {key: encoded((key, 0, 0)) for key in (5, 7)}
    assert read_images(opened(index_path), index, "test", []) == {}


def test_a_key_that_is_nowhere_is_named(shards):
    index_path, index, _ = shards
    with pytest.raises(ArtifactError, match=r"test split has no sample 99; run `convoy evaluate` again"):
        read_images(opened(index_path), index, "test", [5, 99])


def test_a_split_without_shards_is_an_empty_table(tmp_path, write_shards):
    index = write_shards(tmp_path, ["a"], {"test": []}, metadata_columns=["camera"])
    table = read_samples(opened(tmp_path / "index.json"), index, "test")
    assert table.num_rows == 0
    assert table.column_names[-1] == "slice_camera"


def test_a_missing_tar_is_named(shards):
    index_path, index, _ = shards
    (index_path.parent / "test/test-000001.tar").unlink()
    with pytest.raises(ArtifactError, match=r"test-000001.tar is missing; run `convoy shard`"):
        read_samples(opened(index_path), index, "test")


def test_a_tar_that_was_cut_is_named(shards):
    index_path, index, _ = shards
    tar = index_path.parent / "test/test-000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"test-000000.tar was changed after it was written"):
        read_samples(opened(index_path), index, "test")


@pytest.mark.parametrize("about", [b"{", b"\xff\xfe\xfd", b"[]", b'{"path": "x"}'])
def test_a_description_that_cannot_be_read_is_named(tmp_path, write_shards, encoded, about):
    samples = [{"key": 4, "image": encoded((0, 0, 0)), "label": 0, "about": about}]
    index = write_shards(tmp_path, ["a"], {"test": samples})
    with pytest.raises(ArtifactError, match=r"holds no readable description of sample 4 .*run `convoy verify`"):
        read_samples(opened(tmp_path / "index.json"), index, "test")


def test_a_tar_that_ends_early_is_named_with_the_sample(shards):
    index_path, index, _ = shards

    @contextlib.contextmanager
    def cut(shard):
        with opened(index_path)(shard) as (table, tar):
            tar.write_bytes(tar.read_bytes()[:1000])  # after it was verified
            yield table, tar

    with pytest.raises(ArtifactError, match=r"test-000000.tar ends inside sample 7 \(.*run `convoy verify`"):
        read_samples(cut, index, "test")


def test_a_tar_that_was_changed_between_two_looks_is_named(shards):
    index_path, index, _ = shards
    reader = SplitReader(index_path, "test")
    with reader.opened(index.splits["test"][0]) as (_, tar):
        pass
    tar.write_bytes(tar.read_bytes()[::-1])
    with pytest.raises(ArtifactError, match=r"test-000000.tar was changed while the shards were read; let training en"):
        read_samples(reader.opened, index, "test")

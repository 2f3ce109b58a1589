"""A set that grows: old tars keep their bytes, removed images become tombstones, everything is counted once."""

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import FORM, SPLIT_RULE, build, files_of, fill, jpeg, two_classes, used_samples

from pipeline.artifacts import SPLITS, Index
from pipeline.sample_table import read_sample_table
from pipeline.sharding import growth
from pipeline.sharding.split import SplitRule
from pipeline.sharding.verify import verify_shard_set


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return two_classes(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def old(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "shards"
    build(source, folder)
    return folder


@pytest.fixture
def changed(source, tmp_path) -> Path:
    """A copy of the source to be changed."""
    return shutil.copytree(source, tmp_path / "source")


def tars_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if name.endswith((".tar", ".npy"))}


def grow(source: Path, old: Path, folder: Path, **changes) -> Index:
    built = build(source, folder, former=old, **changes)
    assert built.why_anew is None
    assert verify_shard_set(folder / "index.json", lambda count: None) == built.index
    used_samples(folder)
    return built.index


def test_nothing_new_leaves_the_same_bytes(source, old, tmp_path):
    grow(source, old, tmp_path / "shards")
    assert files_of(tmp_path / "shards") == files_of(old)


def test_added_images_open_new_shards_and_the_old_ones_keep_their_bytes(changed, old, tmp_path):
    fill(changed, {f"cat/new{n}.jpg": jpeg(1000 + n) for n in range(12)})
    index = grow(changed, old, tmp_path / "shards")
    before, after = tars_of(old), tars_of(tmp_path / "shards")
    assert {name: after[name] for name in before} == before
    assert index.generation == 1
    assert [len(shard.tombstones) for shards in index.splits.values() for shard in shards].count(0) == len(after) // 2
    samples, then = used_samples(tmp_path / "shards"), used_samples(old)
    assert {path: samples[path] for path in then} == then
    assert len(samples) == len(then) + 12
    added = {name for name in after if name not in before}
    assert sum(name.endswith(".tar") for name in added) == len({samples[f"cat/new{n}.jpg"][0] for n in range(12)})


def test_any_number_of_workers_grows_to_the_same_bytes(changed, old, tmp_path):
    fill(changed, {f"dog/new{n}.jpg": jpeg(1000 + n) for n in range(20)})
    (changed / "cat/003.jpg").unlink()
    for num_workers in (1, 3):
        grow(changed, old, tmp_path / str(num_workers), num_workers=num_workers)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_removed_images_are_tombstones_and_nobody_is_given_them(changed, old, tmp_path):
    removed = ["cat/003.jpg", "cat/017.jpg", "dog/029.jpg"]
    for name in removed:
        (changed / name).unlink()
    index = grow(changed, old, tmp_path / "shards")
    assert tars_of(tmp_path / "shards") == tars_of(old)
    then = used_samples(old)
    assert used_samples(tmp_path / "shards") == {path: each for path, each in then.items() if path not in removed}
    assert sum(len(shard.tombstones) for shards in index.splits.values() for shard in shards) == 3
    assert index.num_records == 57
    for split in SPLITS:
        gone = [path for path in removed if then[path][0] == split]
        assert index.num_samples(split) == Index.read(old / "index.json", "shard").num_samples(split) - len(gone)
        assert sum(index.class_counts(split)) == index.num_samples(split)


def test_other_readers_are_told_what_they_meet_in_the_tars(changed, old, tmp_path):
    removed = ["cat/003.jpg", "dog/004.jpg"]
    for name in removed:
        (changed / name).unlink()
    folder = tmp_path / "shards"
    index = grow(changed, old, folder)
    keys = {f"{used_samples(old)[name][2]:09d}" for name in removed}
    said = json.loads((folder / "_info.json").read_text())["splits"]
    assert {key for each in said.values() for key in each["removed_keys"]} == keys
    for split, each in said.items():
        counts = []
        for name in each["filenames"]:
            with tarfile.open(folder / name) as tar:
                counts.append(len(tar.getnames()) // 3)
        assert each["shard_lengths"] == counts
        assert each["num_samples"] == sum(counts) == index.num_samples(split) + len(each["removed_keys"])
        assert list(json.loads((folder / split / "sizes.json").read_text()).values()) == counts
    listed = "".join(path.read_text() for path in folder.glob("*/*.idx"))
    assert not any(key in listed for key in keys), "DALI reads by its index, so it can leave them out"
    assert listed.count(".jpg") == 58


def test_a_changed_image_is_a_removal_and_an_addition(changed, old, tmp_path):
    (changed / "cat/003.jpg").write_bytes(jpeg(4242))
    index = grow(changed, old, tmp_path / "shards")
    _, sha256, key = used_samples(tmp_path / "shards")["cat/003.jpg"]
    assert sha256 == hashlib.sha256(jpeg(4242)).hexdigest()
    assert key == 60
    assert sum(len(shard.tombstones) for shards in index.splits.values() for shard in shards) == 1


def test_what_comes_back_is_used_again(source, changed, old, tmp_path):
    (changed / "cat/003.jpg").unlink()
    fill(changed, {"cat/new.jpg": jpeg(1000)})
    grow(changed, old, tmp_path / "other")
    index = grow(source, tmp_path / "other", tmp_path / "back")
    assert index == Index.read(old / "index.json", "shard").model_copy(update={"generation": 2})
    assert tars_of(tmp_path / "back") == tars_of(old)


def test_a_shard_of_nothing_but_tombstones_is_left_out(changed, old, tmp_path):
    first = Index.read(old / "index.json", "shard").splits["train"][0]
    samples, table = used_samples(old), read_sample_table(old / "index.json", first)
    for path in [path for path, (_, _, key) in samples.items() if key in table["key"]]:
        (changed / path).unlink()
    fill(changed, {f"cat/new{n}.jpg": jpeg(1000 + n) for n in range(9)})
    index = grow(changed, old, tmp_path / "shards")
    assert first.name not in [shard.name for shard in index.splits["train"]]
    assert not (tmp_path / "shards" / f"{first.name}.tar").exists()
    assert min(key for _, _, key in used_samples(tmp_path / "shards").values()) == 8


def test_a_set_of_which_less_than_half_is_left_is_written_anew(changed, old, tmp_path):
    for name in [path for n, path in enumerate(sorted(changed.rglob("*.jpg"))) if n % 5 > 1]:
        name.unlink()
    built = build(changed, tmp_path / "shards", former=old)
    assert built.why_anew == "fewer than half of its samples are still wanted"
    build(changed, tmp_path / "fresh")
    assert files_of(tmp_path / "shards") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rule": SPLIT_RULE._replace(seed=5)}, "seed changed"),
        ({"rule": SPLIT_RULE._replace(test_fraction=0.3, validation_fraction=0.1)}, "test_fraction, validation_fr"),
        ({"form": FORM._replace(short_side_px=8)}, "short_side_px changed"),
        ({"form": FORM._replace(samples_per_shard=9)}, "samples_per_shard changed"),
    ],
)
def test_other_params_write_it_anew(source, old, tmp_path, changes, why):
    built = build(source, tmp_path / "shards", former=old, **changes)
    assert built.why_anew.startswith(why)
    build(source, tmp_path / "fresh", **changes)
    assert files_of(tmp_path / "shards") == files_of(tmp_path / "fresh")


def test_another_class_writes_it_anew_because_labels_are_numbers(changed, old, tmp_path):
    fill(changed, {f"bird/{n}.jpg": jpeg(1000 + n) for n in range(9)})
    assert build(changed, tmp_path / "shards", former=old).why_anew == "the classes changed"


@pytest.mark.parametrize("ending", ["tar", "npy", "idx"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_damaged_set_does_not_grow(source, old, tmp_path, ending, damage):
    damaged = shutil.copytree(old, tmp_path / "damaged")
    path = damaged / f"train/train-000001.{ending}"
    data = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    built = build(source, tmp_path / "shards", former=damaged)
    assert built.why_anew.startswith(f"it is damaged ({path} ")
    assert files_of(tmp_path / "shards") == files_of(old)


def test_an_index_that_cannot_be_read_does_not_grow(source, old, tmp_path):
    damaged = shutil.copytree(old, tmp_path / "damaged")
    (damaged / "index.json").write_text("{")
    assert build(source, tmp_path / "shards", former=damaged).why_anew.startswith("it is damaged")
    assert files_of(tmp_path / "shards") == files_of(old)


def test_another_fold_is_another_index_over_the_same_tars(source, tmp_path):
    rule, validated, former = SplitRule(0.0, 0.2, 0, folds=3, fold=0), [], None
    for fold in range(3):
        folder = tmp_path / str(fold)
        built = build(source, folder, rule=rule._replace(fold=fold), former=former)
        index = built.index
        assert (built.why_anew, built.num_new) == (None, 0 if fold else 60)
        verify_shard_set(folder / "index.json", lambda count: None)
        build(source, tmp_path / "fresh", rule=rule._replace(fold=fold))
        assert index.model_copy(update={"generation": 0}) == Index.read(tmp_path / "fresh/index.json", "shard")
        shutil.rmtree(tmp_path / "fresh")
        assert tars_of(folder) == tars_of(tmp_path / "0")
        assert {shard.name.split("/")[0] for shard in index.splits["validation"]} == {f"fold-{fold}"}
        samples = used_samples(folder)
        validated += [path for path, (split, _, _) in samples.items() if split == "validation"]
        tested = [path for path, (split, _, _) in samples.items() if split == "test"]
        former = folder
    assert sorted(validated + tested) == sorted(samples)
    assert len({Index.read(tmp_path / f"{fold}/index.json", "shard").digest for fold in range(3)}) == 3


PATHS = st.dictionaries(st.integers(0, 25), st.integers(0, 30), min_size=4)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PATHS, min_size=2, max_size=4))
def test_whatever_comes_and_goes_each_image_is_used_exactly_once(tmp_path_factory, generations):
    root, former = tmp_path_factory.mktemp("any"), None
    for number, images in enumerate(generations):
        contents = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(content) for n, content in images.items()}
        contents |= {"a/always.jpg": jpeg(900), "b/always.jpg": jpeg(901)}
        source, folder = fill(root / f"source{number}", contents), root / f"shards{number}"
        built = build(source, folder, rule=SplitRule(0, 0.3, 0), form=FORM._replace(samples_per_shard=3), former=former)
        verify_shard_set(folder / "index.json", lambda count: None)
        used = used_samples(folder)
        assert {path: sha256 for path, (_, sha256, _) in used.items()} == {
            path: hashlib.sha256(data).hexdigest() for path, data in contents.items()
        }
        if former is not None and built.why_anew is None:
            then = used_samples(former)
            stayed = {path for path in used.keys() & then.keys() if used[path][1] == then[path][1]}
            assert {path: used[path] for path in stayed} == {path: then[path] for path in stayed}
        former = folder


@given(st.lists(st.integers(0, 5), max_size=20), st.lists(st.integers(0, 5), max_size=20))
def test_pairs_are_made_once_and_only_of_equals(stored, wanted):
    keys = [[np.array(rows, np.uint64) // 2, np.array(rows, np.int8) % 2] for rows in (stored, wanted)]
    pairs = growth._pair(*keys)
    taken = [place for place in pairs.tolist() if place != growth.UNKNOWN]
    assert len(set(taken)) == len(taken)
    assert all(stored[place] == want for place, want in zip(pairs, wanted, strict=True) if place != growth.UNKNOWN)
    for each in range(6):
        num_paired = sum(place != growth.UNKNOWN for place, want in zip(pairs, wanted, strict=True) if want == each)
        assert num_paired == min(stored.count(each), wanted.count(each))

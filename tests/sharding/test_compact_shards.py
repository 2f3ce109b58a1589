"""Compacting: what was grown becomes what is written anew, to the byte; damage and needless work are refused."""

import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import FORM, build, files_of, fill, jpeg, silent, two_classes

from pipeline.artifacts import Index
from pipeline.errors import ArtifactError
from pipeline.sharding.compact import compact_shard_set, find_savings
from pipeline.sharding.split import SplitRule
from pipeline.sharding.verify import verify_shard_set

FOLDS = SplitRule(0.0, 0.2, 0, folds=3, fold=1)


def compact(grown: Path, folder: Path, num_workers: int = 1) -> Index:
    folder.mkdir()
    index = compact_shard_set(grown / "index.json", folder, num_workers, silent)
    assert verify_shard_set(folder / "index.json", lambda count: None) == index
    return index


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """A set of generation 2: two images went, nine came, of which one is there already under a later name."""
    root = tmp_path_factory.mktemp("grown")
    source = two_classes(root / "source")
    build(source, root / "old")
    for name in ("cat/003.jpg", "dog/011.jpg"):
        (source / name).unlink()
    fill(source, {f"cat/new{n}.jpg": jpeg(1000 + n) for n in range(4)} | {"cat/+again.jpg": jpeg(20)})
    build(source, root / "between", former=root / "old")
    fill(source, {f"dog/new{n}.jpg": jpeg(2000 + n) for n in range(4)})
    build(source, root / "shards", former=root / "between")
    build(source, root / "fresh")
    return root / "shards"


def removed_bytes(folder: Path) -> int:
    """From the header of each tombstone's image to the header of the next sample, or to the end of the members."""
    total = 0
    for shards in Index.read(folder / "index.json", "shard").splits.values():
        for shard in shards:
            with tarfile.open(folder / f"{shard.name}.tar") as tar:
                members, end = tar.getmembers(), tar.offset
            starts = [*(member.offset for member in members[::3]), end]
            total += sum(starts[row + 1] - starts[row] for row in shard.tombstones)
    return total


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_comes_out_is_what_is_written_anew(grown, tmp_path, num_workers):
    savings = find_savings(grown / "index.json")
    index = compact(grown, tmp_path / "compacted", num_workers)
    assert index.generation == 0
    assert files_of(tmp_path / "compacted") == files_of(grown.parent / "fresh")
    assert (savings.num_tombstones, savings.num_shards) == (2, len(list(grown.glob("*/*.tar"))))
    assert savings.num_shards_after == len(list((tmp_path / "compacted").glob("*/*.tar"))) == savings.num_shards - 2
    assert savings.num_bytes == removed_bytes(grown)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.integers(0, 25), st.integers(0, 9), min_size=2),
    st.dictionaries(st.integers(0, 25), st.integers(0, 9), min_size=2),
    st.sampled_from([SplitRule(0.0, 0.3, 0), FOLDS._replace(folds=2)]),
)
def test_after_any_growth_it_is_what_is_written_anew(tmp_path_factory, before, after, rule):
    root = tmp_path_factory.mktemp("any")
    form = FORM._replace(samples_per_shard=3)
    always = {f"{label}/always{n}.jpg": jpeg(900 + n) for label in "ab" for n in range(16)}
    for name, images in (("before", before), ("after", after)):
        fill(root / name, {f"{'ab'[n % 2]}/{n}.jpg": jpeg(content) for n, content in images.items()} | always)
    build(root / "before", root / "old", rule=rule, form=form)
    build(root / "after", root / "shards", rule=rule, form=form, former=root / "old")
    build(root / "after", root / "fresh", rule=rule, form=form)
    compact(root / "shards", root / "compacted")
    assert files_of(root / "compacted") == files_of(root / "fresh")


def test_folds_stay_what_they_are(tmp_path):
    source = two_classes(tmp_path / "source")
    build(source, tmp_path / "old", rule=FOLDS)
    (source / "cat/003.jpg").unlink()
    build(source, tmp_path / "shards", rule=FOLDS, former=tmp_path / "old")
    index = compact(tmp_path / "shards", tmp_path / "compacted")
    assert {shard.name.split("/")[0] for shard in index.splits["validation"]} == {"fold-1"}
    build(source, tmp_path / "fresh", rule=FOLDS)
    assert files_of(tmp_path / "compacted") == files_of(tmp_path / "fresh")


def test_full_shards_without_tombstones_leave_nothing_to_do(grown):
    assert find_savings(grown.parent / "old/index.json").is_nothing
    assert not find_savings(grown / "index.json").is_nothing


def test_a_set_of_an_earlier_version_is_refused(grown, tmp_path):
    folder = shutil.copytree(grown, tmp_path / "shards")
    Index.read(folder / "index.json", "shard").model_copy(update={"made_with": {}}).write(folder / "index.json")
    with pytest.raises(
        ArtifactError, match=r"does not say how its shards were made, .*; run `convoy shard`, which wri"
    ):
        find_savings(folder / "index.json")


def test_a_damaged_set_is_refused(grown, tmp_path):
    folder = shutil.copytree(grown, tmp_path / "shards")
    path = folder / "train/train-000001.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (tmp_path / "compacted").mkdir()
    message = rf"{path} was changed after it was written; run `convoy shard`, which writes a damaged set anew"
    with pytest.raises(ArtifactError, match=message):
        compact_shard_set(folder / "index.json", tmp_path / "compacted", 1, silent)
    assert not list((tmp_path / "compacted").iterdir())

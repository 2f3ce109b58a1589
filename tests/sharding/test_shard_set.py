"""A whole shard set: nothing lost, nothing twice, the same bytes again, and open to everybody else's readers."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_folders import AUDIT_RULE, FORM, build, files_of, fill, jpeg, scanned, silent, two_classes
from PIL import Image

from pipeline.artifacts import SPLITS, Index
from pipeline.errors import SourceError
from pipeline.imaging.decode import decode
from pipeline.path_names import unescape_path
from pipeline.sample_table import read_sample_table
from pipeline.sharding import build as build_module
from pipeline.sharding.build import ShardForm, SplitRule, build_shard_set
from pipeline.sharding.tables import TableColumns
from pipeline.sharding.workers import LocalWorkers


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return two_classes(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "shards"
    build(source, folder)
    return folder


def samples_of(folder: Path) -> list[dict]:
    """Every sample of every tar, with its split and what its members say."""
    samples = []
    for tar_path in sorted(folder.glob("*/*.tar")):
        with tarfile.open(tar_path) as tar:
            members = tar.getmembers()
            for image, cls, facts in zip(members[::3], members[1::3], members[2::3], strict=True):
                key = image.name.removesuffix(".jpg")
                assert (cls.name, facts.name) == (f"{key}.cls", f"{key}.json")
                data = [tar.extractfile(member).read() for member in (image, cls, facts)]
                samples.append(
                    {"key": key, "split": tar_path.parent.name, "jpg": data[0], "cls": int(data[1])}
                    | json.loads(data[2])
                )
    return samples


def test_each_image_is_in_exactly_one_shard_with_its_label_and_facts(source, folder):
    samples = samples_of(folder)
    on_disk = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*.jpg")}
    assert sorted(sample["path"] for sample in samples) == sorted(on_disk)
    assert len({sample["key"] for sample in samples}) == len(samples)
    for sample in samples:
        data = on_disk[sample["path"]]
        assert sample["cls"] == ["cat", "dog"].index(sample["path"].split("/")[0])
        assert sample["sha256"] == hashlib.sha256(data).hexdigest()
        assert (sample["height"], sample["width"]) == (16, 16)
        assert (sample["group"], sample["metadata"]) == (None, {})
        assert sample["jpg"] == data
        assert len(sample["key"]) == 9


def test_the_index_counts_what_the_tars_hold(folder):
    index = Index.read(folder / "index.json", "shard")
    samples = samples_of(folder)
    assert index.classes == ["cat", "dog"]
    assert (index.num_records, index.num_rejects, index.image_extension, index.num_channels) == (60, 0, "jpg", 3)
    for split in SPLITS:
        labels = [sample["cls"] for sample in samples if sample["split"] == split]
        assert index.num_samples(split) == len(labels) > 0
        assert index.class_counts(split) == np.bincount(labels, minlength=2).tolist()
    for shard in (shard for shards in index.splits.values() for shard in shards):
        content = (folder / f"{shard.name}.tar").read_bytes()
        assert (shard.num_bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert shard.num_samples <= 8


def test_mean_and_std_are_those_of_the_training_pixels(folder):
    index = Index.read(folder / "index.json", "shard")
    images = [Image.open(io.BytesIO(sample["jpg"])) for sample in samples_of(folder) if sample["split"] == "train"]
    pixels_N3 = np.concatenate([np.asarray(image).reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(index.mean, pixels_N3.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(index.std, pixels_N3.std(axis=0), rtol=1e-9)


def test_of_a_large_set_mean_and_std_come_from_some_images_all_over_it(source, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "MEASURED_RECORDS", 20)
    index = build(source, tmp_path / "shards").index
    whole = Index.read(folder / "index.json", "shard")
    assert index.digest == whole.digest
    assert index.mean != whole.mean
    np.testing.assert_allclose(index.mean, whole.mean, atol=0.02)
    np.testing.assert_allclose(index.std, whole.std, atol=0.02)


def test_where_nothing_measured_is_trained_on_the_rest_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "MEASURED_RECORDS", 1)
    source = fill(tmp_path / "set", {f"{'ab'[n > 20]}/{n:02d}.jpg": jpeg(n) for n in range(40)})
    built = build(source, tmp_path / "shards", rule=SplitRule(0, 0.9, 0))
    [first] = [sample for sample in samples_of(tmp_path / "shards") if sample["path"] == "a/00.jpg"]
    assert first["split"] == "test"
    np.testing.assert_allclose(built.index.mean, decode(jpeg(0)).reshape(-1, 3).mean(axis=0) / 255, rtol=1e-9)


def test_what_cannot_be_trained_on_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "MEASURED_RECORDS", 1)
    contents = {f"test/{label}/{n}.jpg": jpeg(n) for label in "ab" for n in range(20)}
    contents |= {"train/a/x.jpg": jpeg(100), "train/b/y.jpg": jpeg(101)}
    index = build(fill(tmp_path / "set", contents), tmp_path / "shards", rule=SplitRule(0, 0, 0)).index
    values_N3 = decode(jpeg(100)).reshape(-1, 3) / 255
    np.testing.assert_allclose(index.mean, values_N3.mean(axis=0), rtol=1e-9)


def test_the_table_and_the_dali_index_point_at_the_members(folder):
    index = Index.read(folder / "index.json", "shard")
    by_key = {int(sample["key"]): sample for sample in samples_of(folder)}
    for shard in (shard for shards in index.splits.values() for shard in shards):
        content = (folder / f"{shard.name}.tar").read_bytes()
        head, *lines = (folder / f"{shard.name}.idx").read_text().splitlines()
        assert head == f"v1.2 {shard.num_samples}"
        for row, line in zip(read_sample_table(folder / "index.json", shard), lines, strict=True):
            sample = by_key[int(row["key"])]
            assert content[row["image_offset"] :][: row["image_bytes"]] == sample["jpg"]
            assert json.loads(content[row["json_offset"] :][: row["json_bytes"]])["path"] == sample["path"]
            assert row["label"] == sample["cls"]
            fields = line.split()
            assert fields[::4] == ["jpg", "cls", "json"]
            for extension, offset, num_bytes, name in zip(*[iter(fields)] * 4, strict=True):
                assert name == f"{sample['key']}.{extension}"
                data = content[int(offset) :][: int(num_bytes)]
                assert data == {"jpg": sample["jpg"], "cls": str(sample["cls"]).encode()}.get(extension, data)


def test_members_carry_no_clock_and_no_owner(folder):
    for tar_path in folder.glob("*/*.tar"):
        with tarfile.open(tar_path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
                assert (member.mode, member.type) == (0o644, tarfile.REGTYPE)


@pytest.mark.parametrize("short_side_px", [None, 8])
def test_any_number_of_workers_leaves_the_same_bytes(source, tmp_path, short_side_px):
    form = ShardForm(short_side_px, 90, 8)
    for num_workers in (1, 2, 3):
        build(source, tmp_path / str(num_workers), form=form, num_workers=num_workers)
    assert len(files_of(tmp_path / "1")) > 15
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "3")


def test_another_folder_with_the_same_images_leaves_the_same_bytes(source, folder, tmp_path):
    copy = fill(tmp_path / "copy", {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*.jpg")})
    build(copy, tmp_path / "shards")
    assert files_of(tmp_path / "shards") == files_of(folder)


BAD = {
    "cat/empty.jpg": (b"", "empty_file"),
    "cat/text.jpg": (b"not an image at all", "not_an_image"),
    "dog/page.png": (b"<html></html>", "not_an_image"),
    "dog/cut.jpg": (jpeg(7)[:-40], "truncated"),
}


def test_what_cannot_be_decoded_is_a_reject_with_its_reason(source, tmp_path):
    bad = fill(tmp_path / "bad", {name: data for name, (data, _) in BAD.items()})
    two_classes(bad)
    built = build(bad, tmp_path / "shards", num_workers=2)
    assert {reject.path: reject.reason for reject in built.rejects} == {name: why for name, (_, why) in BAD.items()}
    assert [reject.path for reject in built.rejects] == sorted(BAD)
    assert built.index.num_rejects == 4
    assert built.audit.rejects_by_reason == {"empty_file": 1, "not_an_image": 2, "truncated": 1}
    assert len(samples_of(tmp_path / "shards")) == 60
    assert not {sample["path"] for sample in samples_of(tmp_path / "shards")} & set(BAD)


def test_a_file_that_vanished_after_the_scan_is_a_reject(tmp_path):
    source = two_classes(tmp_path / "source", 5)
    (source / "dog/gone.jpg").symlink_to(tmp_path / "target.jpg")
    (tmp_path / "target.jpg").write_bytes(jpeg(1))
    manifest = scanned(source, tmp_path / "manifest")
    (tmp_path / "target.jpg").unlink()
    (tmp_path / "shards").mkdir()
    built = build_shard_set(
        tmp_path / "shards", tmp_path, manifest, source, SplitRule(0, 0, 0), FORM, AUDIT_RULE, LocalWorkers(1), silent
    )
    assert [(reject.path, reject.reason) for reject in built.rejects] == [("dog/gone.jpg", "unreadable_file")]
    assert built.audit.num_samples == 10


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.integers(0, 40),
        st.tuples(st.sampled_from("ab"), st.sampled_from([b"", b"text", *map(jpeg, range(12))])),
        min_size=2,
    ).filter(lambda records: {label for label, _ in records.values()} == {"a", "b"}),
    st.integers(1, 9),
)
def test_every_record_is_one_sample_or_one_reject(tmp_path_factory, records, samples_per_shard):
    root = tmp_path_factory.mktemp("any")
    source = fill(root / "source", {f"{label}/{n}.jpg": data for n, (label, data) in records.items()})
    form = ShardForm(None, 90, samples_per_shard)
    if not any(len(data) > len(b"text") for _, data in records.values()):
        return  # nothing at all to train on is another test
    built = build(
        source,
        root / "shards",
        rule=SplitRule(0.0, 0.0, 0),
        form=form,
        audit_rule=AUDIT_RULE._replace(max_rejected_fraction=1.0),
    )
    samples = samples_of(root / "shards")
    assert sorted([s["path"] for s in samples] + [r.path for r in built.rejects]) == sorted(
        f"{label}/{n}.jpg" for n, (label, _) in records.items()
    )
    assert built.audit.num_samples == len(samples)
    by_content = {}
    for sample in samples:
        by_content.setdefault(sample["sha256"], []).append(sample["path"])
    alike = [sorted(paths) for paths in by_content.values() if len(paths) > 1]
    assert sorted(built.audit.findings["duplicates"].examples) == sorted(alike)


def test_duplicates_stay_together_and_are_reported_with_their_labels(tmp_path):
    contents = {f"{label}/{number}.jpg": jpeg(number) for label in ("cat", "dog") for number in range(25)}
    rule = SplitRule(0.2, 0.2, 1)
    built = build(fill(tmp_path / "source", contents), tmp_path / "shards", rule=rule)
    splits = {}
    for sample in samples_of(tmp_path / "shards"):
        splits.setdefault(sample["sha256"], set()).add(sample["split"])
    assert all(len(each) == 1 for each in splits.values())
    assert (
        built.audit.findings["duplicates"].num_groups == built.audit.findings["contradictory_labels"].num_groups == 25
    )
    assert built.audit.findings["contradictory_labels"].num_images == 50
    assert ["cat/3.jpg", "dog/3.jpg"] in built.audit.findings["contradictory_labels"].examples
    assert len(built.audit.findings["duplicates"].examples) == 20
    assert built.audit.findings["leakage"].num_groups == 0


def test_a_duplicate_across_given_splits_is_reported(tmp_path):
    contents = {"train/a/1.jpg": jpeg(1), "train/b/2.jpg": jpeg(2), "test/a/3.jpg": jpeg(1), "test/b/4.jpg": jpeg(4)}
    built = build(fill(tmp_path / "source", contents), tmp_path / "shards", rule=SplitRule(0.0, 0.0, 0))
    assert built.audit.findings["leakage"].examples == [["test/a/3.jpg", "train/a/1.jpg"]]
    assert built.audit.findings["contradictory_labels"].num_groups == 0


def test_sizes_of_the_sources(tmp_path):
    sizes = [(10, 40), (20, 30), (90, 20)]
    contents = {f"{'ab'[n % 2]}/{n}.jpg": jpeg(n, *size) for n, size in enumerate(sizes)}
    built = build(
        fill(tmp_path / "s", contents), tmp_path / "shards", rule=SplitRule(0, 0, 0), form=ShardForm(8, 90, 9)
    )
    assert built.audit.height_px == {"min": 10, "median": 20, "max": 90}
    assert built.audit.width_px == {"min": 20, "median": 30, "max": 40}


def test_adding_images_moves_no_old_sample_to_another_split(source, folder, tmp_path):
    grown = two_classes(tmp_path / "grown", 30)
    fill(grown, {f"cat/new{number}.jpg": jpeg(1000 + number) for number in range(20)})
    build(grown, tmp_path / "shards")
    new = {sample["path"]: sample["split"] for sample in samples_of(tmp_path / "shards")}
    assert len(new) == 80
    assert all(new[sample["path"]] == sample["split"] for sample in samples_of(folder))


def test_a_table_brings_group_and_metadata_into_the_samples(tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    fill(tmp_path / "source", {name: jpeg(number) for number, name in enumerate(names)})
    lines = [f"{name},{'ab'[n % 2]},person {n // 10},{n % 3}" for n, name in enumerate(names)]
    table = tmp_path / "source/t.csv"
    table.write_text("\n".join(["file,kind,who,site", *lines]) + "\n")
    columns = TableColumns("file", "kind", None, "who", ("site",))
    built = build(table, tmp_path / "shards", columns=columns, rule=SplitRule(0.3, 0.0, 2))
    assert built.index.metadata_columns == ["site"]
    by_group = {}
    for sample in samples_of(tmp_path / "shards"):
        number = int(sample["path"].removesuffix(".jpg"))
        assert (sample["group"], sample["metadata"]) == (f"person {number // 10}", {"site": str(number % 3)})
        by_group.setdefault(sample["group"], set()).add(sample["split"])
    assert all(len(splits) == 1 for splits in by_group.values())


def test_names_survive_into_the_samples(tmp_path):
    source = two_classes(tmp_path / "source", 3)
    (source / "cat" / "b\\s \udcff\n.jpg").write_bytes(jpeg(99))
    build(source, tmp_path / "shards", rule=SplitRule(0, 0, 0))
    names = {unescape_path(sample["path"]) for sample in samples_of(tmp_path / "shards")}
    assert b"cat/b\\s \xff\n.jpg" in names


def test_too_many_rejects_leave_no_index(tmp_path):
    source = fill(two_classes(tmp_path / "source", 10), {"cat/x.jpg": b"x"})
    rule = SplitRule(0.0, 0.0, 0)
    built = build(source, tmp_path / "shards", rule=rule, audit_rule=AUDIT_RULE._replace(max_rejected_fraction=0.04))
    assert built.index is None
    assert not (tmp_path / "shards/index.json").exists()
    allowed = AUDIT_RULE._replace(max_rejected_fraction=0.05)
    assert build(source, tmp_path / "again", rule=rule, audit_rule=allowed).index is not None


def test_a_split_without_images_is_refused_before_anything_is_encoded(tmp_path):
    with pytest.raises(SourceError, match="None of 4 images fell into the"):
        build(two_classes(tmp_path / "source", 2), tmp_path / "shards", rule=SplitRule(0.001, 0.001, 0))
    assert not list((tmp_path / "shards").iterdir())


def test_an_image_that_changes_meanwhile_is_noticed(tmp_path, monkeypatch):
    source = two_classes(tmp_path / "source", 5)

    real = build_module.plan_shards

    def plan_and_change(*args):  # after the hashing, before the encoding
        (source / "cat/001.jpg").write_bytes(jpeg(12345))
        return real(*args)

    monkeypatch.setattr(build_module, "plan_shards", plan_and_change)
    with pytest.raises(SourceError, match=r"cat/001.jpg changed while it was being sharded; let the source rest"):
        build(source, tmp_path / "shards", rule=SplitRule(0, 0, 0))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("careless_reader")
def test_webdataset_reads_the_same_samples(folder):
    import webdataset

    ours = {sample["key"]: sample for sample in samples_of(folder) if sample["split"] == "train"}
    urls = [str(path) for path in sorted(folder.glob("train/*.tar"))]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert sorted(sample["__key__"] for sample in theirs) == sorted(ours)
    for sample in theirs:
        assert sample["cls"] == ours[sample["__key__"]]["cls"]
        assert sample["jpg"].shape == (16, 16, 3)
        assert sample["json"]["path"] == ours[sample["__key__"]]["path"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("careless_reader")
@pytest.mark.parametrize("split", SPLITS)
def test_timm_reads_the_same_samples_by_name_of_the_split(folder, split):
    from timm.data.readers.reader_wds import ReaderWds

    reader = ReaderWds(str(folder), split=split)
    ours = [sample for sample in samples_of(folder) if sample["split"] == split]
    theirs = [(np.asarray(image), label) for image, label in reader]
    assert len(reader) == len(theirs) == len(ours)
    for (image, label), sample in zip(theirs, ours, strict=True):
        assert label == sample["cls"]
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(sample["jpg"]))))


def test_open_clip_finds_the_sizes(folder):
    for split in SPLITS:
        sizes = json.loads((folder / split / "sizes.json").read_text())
        assert sorted(sizes) == sorted(path.name for path in folder.glob(f"{split}/*.tar"))
        assert sum(sizes.values()) == len([s for s in samples_of(folder) if s["split"] == split])

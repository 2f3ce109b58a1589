"""Records of a set that grows: what changed of one is seen, what is old stays in its split, what is said holds."""

import json
from pathlib import Path

import numpy as np
import pytest
from image_folders import build, fill, jpeg, smooth, used_samples

from pipeline.artifacts import Index
from pipeline.errors import ArtifactError
from pipeline.evaluation.samples import read_images, read_samples
from pipeline.loading.read import SplitReader
from pipeline.sample_table import read_sample_table, read_stored_table
from pipeline.sharding.split import SplitRule
from pipeline.sharding.tables import TableColumns

TABLE = TableColumns("image", "label", "split", "group", ("site",))


def build_table(root: Path, folder: Path, rows: list[tuple], former: Path | None = None):
    """Of images by their content: (name, label, split, group, site)."""
    fill(root, {f"{row[0]}.jpg": jpeg(int(row[0])) for row in rows})
    lines = [",".join([f"{name}.jpg", *map(str, rest)]) for name, *rest in rows]
    (root / "t.csv").write_text("\n".join(["image,label,split,group,site", *lines]) + "\n")
    return build(root / "t.csv", folder, columns=TABLE, rule=SplitRule(0.3, 0.3, 0), former=former)


def live(folder: Path) -> dict[str, tuple]:
    """By path: split, class name, group and site."""
    index, found = Index.read(folder / "index.json", "shard"), {}
    for split, shards in index.splits.items():
        for shard in shards:
            content = (folder / f"{shard.name}.tar").read_bytes()
            for row in read_sample_table(folder / "index.json", shard):
                says = json.loads(content[row["json_offset"] :][: row["json_bytes"]])
                assert says["path"] not in found
                found[says["path"]] = (split, index.classes[row["label"]], says["group"], says["metadata"]["site"])
    return found


@pytest.mark.parametrize(
    "change",
    [("b", "train", "g1", "x"), ("a", "test", "g1", "x"), ("a", "train", "g2", "x"), ("a", "train", "g1", "y")],
    ids=["label", "split", "group", "metadata"],
)
def test_whatever_changes_of_a_record_it_is_a_removal_and_an_addition(tmp_path, change):
    others = [(str(n), "ab"[n % 2], "test" if n < 4 else "train", f"h{n}", "x") for n in range(12)]
    former = ("99", "a", "train", "g1", "x")
    build_table(tmp_path / "source", tmp_path / "old", [*others, former])
    built = build_table(tmp_path / "source", tmp_path / "new", [*others, ("99", *change)], former=tmp_path / "old")
    assert (built.why_anew, built.num_new) == (None, 1)
    after, before = live(tmp_path / "new"), live(tmp_path / "old")
    assert after.pop("99.jpg")[1:] == (change[0], *change[2:])
    del before["99.jpg"]
    assert after == before
    back = build_table(tmp_path / "source", tmp_path / "back", [*others, former], former=tmp_path / "new")
    assert back.num_new == 0
    assert live(tmp_path / "back") == live(tmp_path / "old")


def test_what_was_named_test_and_is_named_train_leaves_the_test_split(tmp_path):
    rows = [(str(n), "ab"[n % 2], "test" if n < 6 else "train", "", "x") for n in range(24)]
    build_table(tmp_path / "source", tmp_path / "old", rows)
    rows[0] = ("0", "a", "train", "", "x")
    build_table(tmp_path / "source", tmp_path / "new", rows, former=tmp_path / "old")
    assert live(tmp_path / "new")["0.jpg"][0] != "test"
    rows[0] = ("0", "a", "test", "", "x")
    built = build_table(tmp_path / "source", tmp_path / "back", rows, former=tmp_path / "new")
    assert built.num_new == 0
    assert live(tmp_path / "back") == live(tmp_path / "old")


def test_a_look_alike_of_a_given_test_image_does_not_become_one(tmp_path):
    contents = {
        f"{split}/{'ab'[n % 2]}/{n}.jpg": smooth(n + 50 * (split == "test"), 95)
        for split in ("train", "test")
        for n in range(12)
    }
    source = fill(tmp_path / "source", contents)
    build(source, tmp_path / "old", rule=SplitRule(0.2, 0.2, 0))
    fill(source, {f"train/{'ab'[n % 2]}/{n}-copy.jpg": smooth(n + 50, 85) for n in range(12)})
    built = build(source, tmp_path / "new", rule=SplitRule(0.2, 0.2, 0), former=tmp_path / "old")
    assert (built.why_anew, built.num_new) == (None, 12)
    splits = {path: split for path, (split, _, _) in used_samples(tmp_path / "new").items()}
    assert {split for path, split in splits.items() if path.startswith("train")} == {"train", "validation"}
    assert built.audit.findings["near_leakage"].num_groups == 12


def test_a_tombstone_says_less_than_a_live_sample_of_the_same_image(tmp_path):
    others = [(str(n), "ab"[n % 2], "", f"h{n}", "x") for n in range(30)]
    build_table(tmp_path / "source", tmp_path / "0", others)
    by_split = {split: group for split, _, group, _ in live(tmp_path / "0").values()}
    former = tmp_path / "0"
    others.append(("98", "a", "", by_split["train"], "x"))  # keeps the other's first shard from going
    for number, group in enumerate([by_split["train"], by_split["test"], ""], 1):
        rows = [*others, ("99", "a", "", group, "x")]
        built = build_table(tmp_path / "source", tmp_path / str(number), rows, former=former)
        assert (built.why_anew, built.num_new) == (None, 2 if number == 1 else 1)
        former = tmp_path / str(number)
    assert [live(tmp_path / number)["99.jpg"][0] for number in "123"] == ["train", "test", "test"]


def test_no_old_sample_moves_when_its_look_alikes_come(tmp_path):
    rule = SplitRule(0.3, 0.3, 0)
    contents = {f"{'ab'[n % 2]}/{n}.jpg": smooth(n, 95) for n in range(40)}
    source = fill(tmp_path / "source", contents)
    build(source, tmp_path / "old", rule=rule)
    fill(
        source, {f"{'ab'[n % 2]}/{n}-copy{quality}.jpg": smooth(n, quality) for n in range(40) for quality in (80, 90)}
    )
    build(source, tmp_path / "fresh", rule=rule)
    built = build(source, tmp_path / "grown", rule=rule, former=tmp_path / "old")
    then, fresh, grown = (used_samples(tmp_path / name) for name in ("old", "fresh", "grown"))
    assert any(fresh[path][0] != then[path][0] for path in then), "else this shows nothing"
    assert {path: grown[path] for path in then} == then
    for n in range(40):
        assert (
            len(
                {
                    split
                    for path, (split, _, _) in grown.items()
                    if path.split("/")[1].split(".")[0].split("-")[0] == str(n)
                }
            )
            == 1
        )
    assert built.audit.findings["near_leakage"].num_groups == 0


def test_loader_and_evaluation_are_given_no_removed_image(tmp_path):
    rows = [(str(n), "ab"[n % 2], "test" if n % 3 == 0 else "train", "", "x") for n in range(30)]
    build_table(tmp_path / "source", tmp_path / "old", rows)
    stay = [row for row in rows if int(row[0]) % 5]
    index = build_table(tmp_path / "source", tmp_path / "new", stay, former=tmp_path / "old").index
    index_path = tmp_path / "new/index.json"
    assert any(shard.tombstones for shard in index.splits["train"])
    for split in ("train", "test"):
        paths = {path for path, (where, *_) in live(tmp_path / "new").items() if where == split}
        reader = SplitReader(index_path, split)
        shards, table = reader.locate(np.arange(reader.num_samples))
        images = {reader.image_bytes(int(shard), row) for shard, row in zip(shards, table, strict=True)}
        assert images == {jpeg(int(path.split(".")[0])) for path in paths}
        assert reader.class_counts == index.class_counts(split) == np.bincount(table["label"], minlength=2).tolist()
        evaluated = read_samples(reader.opened, index, split)
        assert set(evaluated["path"].to_pylist()) == paths
        assert evaluated["key"].to_pylist() == sorted(table["key"].tolist())
        removed = next(shard for shard in index.splits[split] if shard.tombstones)
        key = int(read_stored_table(index_path, removed)["key"][removed.tombstones[0]])
        with pytest.raises(ArtifactError, match=f"has no sample {key}"):
            read_images(reader.opened, index, split, [key])
        reader.close()

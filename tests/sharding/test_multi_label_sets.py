"""Shard sets whose samples have any number of labels: what the tars say, growing, compaction, the audit, damage."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import shape_pictures
from image_folders import AUDIT_RULE, BY_FOLDERS, FORM, build, files_of, silent

from pipeline.artifacts import Index, file_sha256, index_digest
from pipeline.errors import ArtifactError
from pipeline.sample_table import multi_hot, read_sample_table
from pipeline.sharding.compact import compact_shard_set, find_savings
from pipeline.sharding.verify import verify_shard_set


def labels_by_path(folder: Path) -> dict[str, list[str]]:
    """The class names of every sample as a reader of the index is given them."""
    index, found = Index.read(folder / "index.json", "shard"), {}
    for shards in index.splits.values():
        for shard in shards:
            content = (folder / f"{shard.name}.tar").read_bytes()
            table = read_sample_table(folder / "index.json", shard)
            for row, hot in zip(table, multi_hot(table, len(index.classes)), strict=True):
                facts = json.loads(content[row["json_offset"] :][: row["json_bytes"]])
                assert facts["labels"] == np.flatnonzero(hot).tolist()
                found[facts["path"]] = [index.classes[label] for label in facts["labels"]]
    return found


@pytest.fixture
def shapes(tmp_path) -> Path:
    return Path(shape_pictures.write(tmp_path / "shapes", 40))


@pytest.fixture
def folder(shapes, tmp_path) -> Path:
    build(shapes, tmp_path / "set")
    return tmp_path / "set"


def test_every_sample_keeps_its_labels(folder):
    found = labels_by_path(folder)
    assert found == {f"images/{n:05d}.jpg": sorted(shape_pictures.names_in(n)) for n in range(40)}
    index = verify_shard_set(folder / "index.json", lambda count: None)
    assert (index.multi_label, index.classes) == (True, list(shape_pictures.CLASSES))
    counts = np.sum([index.class_counts(split) for split in index.splits], axis=0)
    assert counts.tolist() == [20, 20, 20]
    assert sum(map(index.num_samples, index.splits)) == 40


def test_a_tar_holds_the_image_and_a_json_with_the_labels_and_nothing_that_a_reader_takes_for_one_label(folder):
    with tarfile.open(folder / "train/train-000000.tar") as tar:
        names = tar.getnames()
    assert {name.partition(".")[2] for name in names} == {"jpg", "json"}
    assert len(names) == 2 * 8
    lines = (folder / "train/train-000000.idx").read_text().splitlines()
    assert lines[0] == "v1.2 8"
    assert [word for line in lines[1:] for word in line.split()[::4]] == ["jpg", "json"] * 8
    data = (folder / "train/train-000000.tar").read_bytes()
    offset, num_bytes = map(int, lines[1].split()[5:7])
    assert json.loads(data[offset : offset + num_bytes])["labels"] is not None


def test_the_same_input_gives_the_same_bytes_for_any_number_of_workers(shapes, folder, tmp_path):
    build(shapes, tmp_path / "again", num_workers=3)
    assert files_of(tmp_path / "again") == files_of(folder)


def test_a_set_grows_and_a_changed_list_is_a_removal_and_an_addition(shapes, folder, tmp_path):
    rows = [json.loads(line) for line in shapes.read_text().splitlines()]
    changed, removed = rows[3], rows.pop(5)
    assert changed["label"] == ["disc", "bar"]
    changed["label"] = ["ring"]
    more = Path(shape_pictures.write(shapes.parent, 4, first=40)).read_text()
    shapes.write_text("".join(json.dumps(row) + "\n" for row in rows) + more)
    built = build(shapes, tmp_path / "grown", former=folder)
    assert (built.why_anew, built.num_new, built.index.generation) == (None, 5, 1)
    found = labels_by_path(tmp_path / "grown")
    assert found[changed["image"]] == ["ring"]
    assert removed["image"] not in found
    assert len(found) == 43
    index = verify_shard_set(tmp_path / "grown" / "index.json", lambda count: None)
    counts = np.sum([index.class_counts(split) for split in index.splits], axis=0)
    expected = [sum(name in names for names in found.values()) for name in index.classes]
    assert counts.tolist() == expected

    savings = find_savings(tmp_path / "grown" / "index.json")
    (tmp_path / "compacted").mkdir()
    compact_shard_set(tmp_path / "grown" / "index.json", tmp_path / "compacted", 1, silent)
    build(shapes, tmp_path / "anew")
    assert labels_by_path(tmp_path / "compacted") == found
    tars = {name: data for name, data in files_of(tmp_path / "anew").items() if name.endswith((".tar", ".npy", ".idx"))}
    assert tars.items() <= files_of(tmp_path / "compacted").items()
    assert (savings.num_tombstones, savings.num_bytes > 0) == (2, True)


def test_a_set_of_single_labels_does_not_grow_into_one_of_lists(shapes, tmp_path):
    rows = [json.loads(line) for line in shapes.read_text().splitlines()]
    rows = [row for row in rows if len(row["label"]) == 1]
    for name, wrap in {"single": lambda label: label[0], "lists": list}.items():
        lines = [json.dumps(row | {"label": wrap(row["label"])}) for row in rows]
        (shapes.parent / f"{name}.jsonl").write_text("\n".join(lines))
    build(shapes.parent / "single.jsonl", tmp_path / "single")
    built = build(shapes.parent / "lists.jsonl", tmp_path / "lists", former=tmp_path / "single")
    assert built.why_anew == "whether an image has one class changed"
    assert built.index.multi_label


def test_the_same_bytes_with_other_lists_contradict_each_other(shapes, tmp_path):
    rows = [json.loads(line) for line in shapes.read_text().splitlines()]
    for place, (image, names) in enumerate([(7, ["bar"]), (9, ["bar"]), (8, ["bar"])]):
        copy = shapes.parent / f"images/copy-{place}.jpg"
        copy.write_bytes(shape_pictures.draw(image))
        rows.append({"image": f"images/{copy.name}", "label": names})
    shapes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    audit = build(shapes, tmp_path / "set", audit_rule=AUDIT_RULE._replace(near_duplicate_bits=None)).audit
    assert audit.findings["duplicates"].num_groups == 3
    # 9 is a bar and nothing else: its copy says the same.
    assert sorted(paths[0] for paths in audit.findings["contradictory_labels"].examples) == [
        "images/00007.jpg",
        "images/00008.jpg",
    ]
    assert audit.samples_by_class == {"bar": 23, "disc": 20, "ring": 20}
    pictures = json.loads((tmp_path / "set" / "audit_pictures.json").read_text())["examples"]
    names = {picture["class_name"] for group in pictures["contradictory_labels"] for picture in group}
    assert names == {"bar, disc, ring", "bar", "(no class)"}


def test_classes_that_few_training_images_have_are_rare(shapes, tmp_path):
    rows = [json.loads(line) for line in shapes.read_text().splitlines()]
    rows[0]["label"] = ["zebra", "bar"]
    shapes.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
    rule = AUDIT_RULE._replace(min_training_samples=5)
    rare = build(shapes, tmp_path / "set", columns=BY_FOLDERS._replace(split="split"), audit_rule=rule).audit.findings[
        "rare_classes"
    ]
    assert (rare.num_groups, rare.num_images, rare.examples) == (1, 1, [["zebra"]])


def reseal(folder: Path, tar: bytes) -> None:
    """The first training tar changed, and the index made to list it so."""
    path = folder / "index.json"
    index = Index.read(path, "shard")
    first = index.splits["train"][0]
    (folder / f"{first.name}.tar").write_bytes(tar)
    splits = {**index.splits}
    splits["train"] = [
        first.model_copy(update={"sha256": file_sha256(folder / f"{first.name}.tar")}),
        *splits["train"][1:],
    ]
    digest = index_digest(index.classes, [shard for shards in splits.values() for shard in shards])
    index.model_copy(update={"splits": splits, "digest": digest}).write(path)


@pytest.mark.parametrize(("old", "new"), [(b'"labels":[', b'"lebals":['), (b'"labels":[0', b'"labels":[1')])
def test_labels_that_are_not_those_of_the_table_are_found_even_in_a_tar_that_the_index_vouches_for(folder, old, new):
    data = (folder / "train/train-000000.tar").read_bytes()
    assert old in data
    reseal(folder, data.replace(old, new))
    with pytest.raises(ArtifactError, match=r"json at byte \d+ does not hold the labels \["):
        verify_shard_set(folder / "index.json", lambda count: None)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.usefixtures("careless_reader")
def test_webdataset_reads_image_and_labels(folder):
    import webdataset

    samples = list(webdataset.WebDataset(str(folder / "train/train-000000.tar"), shardshuffle=False).decode("rgb8"))
    assert len(samples) == 8
    for sample in samples:
        number = int(Path(sample["json"]["path"]).stem)
        names = [shape_pictures.CLASSES[label] for label in sample["json"]["labels"]]
        assert names == sorted(shape_pictures.names_in(number))
        assert sample["jpg"].shape == (shape_pictures.SIDE_PX, shape_pictures.SIDE_PX, 3)


def test_images_in_png_form_have_no_label_member_either(tmp_path):
    """The names of members follow from the kind of the images; the labels do not."""
    from PIL import Image

    rows = []
    for number in range(6):
        data = io.BytesIO()
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(data, "PNG")
        (tmp_path / f"{number}.png").write_bytes(data.getvalue())
        rows.append({"image": f"{number}.png", "label": ["even"] * (number % 2 == 0)})
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(tmp_path / "table.jsonl", tmp_path / "set", form=FORM._replace(samples_per_shard=100))
    assert labels_by_path(tmp_path / "set") == {row["image"]: row["label"] for row in rows}

"""Pictures of what the audit found: beside the shards, small, of the images that are meant."""

import base64

import numpy as np
from image_folders import AUDIT_RULE, build, fill, jpeg
from PIL import Image
from scenes import as_jpeg, scene

from pipeline.findings import AuditPictures
from pipeline.imaging.decode import decode
from pipeline.sharding.build import SplitRule


def pictures_of(folder) -> dict:
    return AuditPictures.read(folder / "audit_pictures.json", "shard").examples


def pixels(picture) -> np.ndarray:
    return decode(base64.b64decode(picture.data_uri.removeprefix("data:image/jpeg;base64,"))).astype(int)


def test_a_picture_of_each_image_of_a_finding(tmp_path):
    large = as_jpeg(np.asarray(Image.fromarray(scene(1)).resize((640, 320))), 95)
    contents = {"train/cat/1.jpg": large, "train/dog/2.jpg": large, "test/cat/3.jpg": large, "test/dog/4.jpg": jpeg(5)}
    contents["train/dog/tall.jpg"] = jpeg(6, 400, 2)
    build(fill(tmp_path / "set", contents), tmp_path / "shards", rule=SplitRule(0, 0, 0))
    found = pictures_of(tmp_path / "shards")
    [group] = found["leakage"]
    assert found["duplicates"] == found["contradictory_labels"] == [group]
    assert [(each.path, each.class_name, each.split) for each in group] == [
        ("test/cat/3.jpg", "cat", "test"),
        ("train/cat/1.jpg", "cat", "train"),
        ("train/dog/2.jpg", "dog", "train"),
    ]
    expected = np.asarray(Image.fromarray(scene(1)).resize((160, 80), Image.Resampling.BOX)).astype(int)
    for each in group:
        assert (each.height, each.width) == pixels(each).shape[:2] == (80, 160)
        assert np.abs(pixels(each) - expected).mean() < 6


def test_what_is_ignored_is_not_drawn_and_many_are_not_all_drawn(tmp_path):
    contents = {f"cat/{copy}/{n}.jpg": jpeg(n) for copy in range(6) for n in range(9)} | {"dog/x.jpg": jpeg(99)}
    source = fill(tmp_path / "set", contents)
    rule = AUDIT_RULE._replace(policies={**AUDIT_RULE.policies, "near_duplicates": "ignore"}, tiny_below_px=17)
    build(source, tmp_path / "shards", rule=SplitRule(0, 0, 0), audit_rule=rule)
    found = pictures_of(tmp_path / "shards")
    assert [len(group) for group in found["duplicates"]] == [4] * 6
    assert len(found["tiny_images"]) == 6
    rule = rule._replace(policies={**rule.policies, "duplicates": "ignore"})
    build(source, tmp_path / "again", rule=SplitRule(0, 0, 0), audit_rule=rule)
    assert set(pictures_of(tmp_path / "again")) == {"tiny_images"}

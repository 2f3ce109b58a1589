"""Row 19: one image in two classes, and in train and test: as it is, resized, encoded again, cropped by 2 %."""

import cv2
import data_project
import numpy as np
import pytest
from image_folders import fill
from scenes import as_jpeg, scene

from pipeline.errors import SourceError

SCENE_HWC = scene(1)
COPIES = {
    "exact": as_jpeg(SCENE_HWC),
    "resized": as_jpeg(cv2.resize(SCENE_HWC, (100, 75), interpolation=cv2.INTER_AREA)),
    "encoded_again": as_jpeg(SCENE_HWC, 60),
    "cropped": as_jpeg(SCENE_HWC[1:-2, 2:-2]),
}
OTHERS = {f"{label}/{number}.jpg": as_jpeg(scene(100 * ord(label) + number)) for label in "ab" for number in range(15)}


def finding(found, name: str) -> list[list[str]]:
    return found.audit["findings"][name]["examples"]


@pytest.mark.parametrize("copy", COPIES)
def test_in_two_classes(tmp_path, copy, capsys):
    contents = {**OTHERS, "a/one.jpg": COPIES["exact"], "b/other.jpg": COPIES[copy]}
    fill(tmp_path / "photos", contents)
    name = "contradictory_labels" if copy == "exact" else "contradictory_near_labels"
    found = data_project.run(tmp_path, test_fraction=0.3)
    assert finding(found, name) == [["a/one.jpg", "b/other.jpg"]]
    assert f"{name}: 2 images in 1 group" in capsys.readouterr().out
    assert found.samples.keys() == contents.keys(), "nothing is dropped"
    assert [found.samples[path]["label"] for path in ("a/one.jpg", "b/other.jpg")] == [0, 1], "nothing is relabelled"
    assert len({found.samples[path]["split"] for path in ("a/one.jpg", "b/other.jpg")}) == 1
    with pytest.raises(
        SourceError, match=rf"{name}: 2 images .* such as a/one.jpg, b/other.jpg\n.* set audit.policies.{name} to"
    ):
        data_project.run(tmp_path, test_fraction=0.3, **{name: "fail"})


@pytest.mark.parametrize("copy", COPIES)
def test_in_train_and_test(tmp_path, copy, capsys):
    contents = {f"{('train', 'test')[n % 2]}/{path}": data for n, (path, data) in enumerate(OTHERS.items())}
    fill(tmp_path / "photos", {**contents, "train/a/one.jpg": COPIES["exact"], "test/a/other.jpg": COPIES[copy]})
    name = "leakage" if copy == "exact" else "near_leakage"
    found = data_project.run(tmp_path)
    assert finding(found, name) == [["test/a/other.jpg", "train/a/one.jpg"]]
    assert f"{name}: 2 images in 1 group" in capsys.readouterr().out
    assert found.samples["test/a/other.jpg"]["split"] == "test", "what the source says stands"
    with pytest.raises(SourceError, match=rf"{name}: 2 images in 1 group .* test/a/other.jpg, train/a/one.jpg"):
        data_project.run(tmp_path, **{name: "fail"})


def test_different_pictures_are_no_finding(tmp_path):
    fill(tmp_path / "photos", OTHERS)
    findings = data_project.run(tmp_path, test_fraction=0.3).audit["findings"]
    assert {name for name, each in findings.items() if each["num_groups"]} <= {"rare_classes"}


def test_copies_share_a_split_or_are_said_to_straddle(tmp_path):
    copies = {
        f"{'ab'[n % 2]}/{n}{'' if q == 92 else '_copy'}.jpg": as_jpeg(scene(n), q) for n in range(30) for q in (92, 70)
    }
    fill(tmp_path / "photos", copies)
    together = data_project.run(tmp_path, validation_fraction=0.3, test_fraction=0.3)
    apart = data_project.run(tmp_path, validation_fraction=0.3, test_fraction=0.3, near_duplicates_together=False)

    def num_straddling(found) -> int:
        split = {path: facts["split"] for path, facts in found.samples.items()}
        return sum(split[path] != split[path.replace(".jpg", "_copy.jpg")] for path in split if "copy" not in path)

    assert num_straddling(together) == len(finding(together, "near_leakage")) == 0
    assert num_straddling(apart) > 5
    assert apart.audit["findings"]["near_leakage"]["num_groups"] == num_straddling(apart)
    assert len(finding(together, "near_duplicates")) == 20
    assert together.audit["findings"]["near_duplicates"]["num_groups"] == 30


def test_without_a_search_only_equal_bytes_are_found(tmp_path):
    fill(tmp_path / "photos", {**OTHERS, "a/one.jpg": COPIES["exact"], "b/other.jpg": COPIES["resized"]})
    found = data_project.run(tmp_path, near_duplicate_bits=None)
    assert finding(found, "near_duplicates") == []


def test_kinds_and_sizes_are_counted(tmp_path):
    fill(
        tmp_path / "photos", {**OTHERS, "a/black.png": cv2.imencode(".png", np.zeros((9, 300), np.uint8))[1].tobytes()}
    )
    found = data_project.run(tmp_path)
    assert found.audit["samples_by_kind"] == {"JPEG YCbCr": 30, "PNG L": 1}
    assert found.audit["height_px"] == {"min": 9.0, "median": 150.0, "max": 150.0}
    for name in ("tiny_images", "dark_images", "blank_images"):
        assert finding(found, name) == [["a/black.png"]]

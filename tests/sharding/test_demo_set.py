import csv
import io
import json

import numpy as np
import pytest
from image_folders import files_of
from PIL import Image

from pipeline.sharding.demo import CLASSES, DIFFICULTIES, draw, has_demo_set, write_demo_set


def test_the_same_seed_is_the_same_bytes(tmp_path):
    write_demo_set(tmp_path / "a", 7, 3)
    write_demo_set(tmp_path / "b", 7, 3)
    write_demo_set(tmp_path / "c", 7, 4)
    first, second, other = (files_of(tmp_path / name) for name in "abc")
    assert first == second
    assert first["X/00000.jpg"] != other["X/00000.jpg"]
    assert len(set(first.values())) == len(first), "no two images are alike"


def test_more_images_leave_the_first_ones_as_they_were(tmp_path):
    write_demo_set(tmp_path / "few", 5, 0)
    write_demo_set(tmp_path / "many", 10, 0)
    few, many = files_of(tmp_path / "few"), files_of(tmp_path / "many")
    assert all(many[name] == data for name, data in few.items() if name.endswith(".jpg"))


def test_the_table_lists_every_file_and_difficulties_come_in_equal_parts(tmp_path):
    write_demo_set(tmp_path / "demo", 10, 0)
    with (tmp_path / "demo/records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "label", "difficulty"]
    assert sorted(row["image"] for row in rows) == [f"{c}/{n:05d}.jpg" for c in "OX" for n in range(10)]
    assert all(row["image"].startswith(row["label"]) for row in rows)
    for class_name in CLASSES:
        of_class = [row["difficulty"] for row in rows if row["label"] == class_name]
        assert sorted(of_class) == sorted(2 * DIFFICULTIES)


def test_times_are_fixed(tmp_path):
    write_demo_set(tmp_path / "demo", 5, 0)
    assert {path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*") if path.is_file()} == {0}


def test_a_set_is_known_by_its_marker(tmp_path):
    assert not has_demo_set(tmp_path / "demo", 5, 0)
    write_demo_set(tmp_path / "demo", 5, 0)
    assert has_demo_set(tmp_path / "demo", 5, 0)
    assert not has_demo_set(tmp_path / "demo", 5, 1)
    assert not has_demo_set(tmp_path / "demo", 6, 0)
    (tmp_path / "demo/demo.json").write_text("{")
    assert not has_demo_set(tmp_path / "demo", 5, 0)
    (tmp_path / "demo/demo.json").write_text(json.dumps({"images_per_class": 5, "seed": 0, "drawing_version": 0}))
    assert not has_demo_set(tmp_path / "demo", 5, 0)


def pixels(class_name: str, difficulty: str, number: int) -> np.ndarray:
    with Image.open(io.BytesIO(draw(class_name, difficulty, number, 0))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))
        return np.asarray(image).astype(float)


def is_ink(image_HWC: np.ndarray) -> np.ndarray:
    """Pixels nearer to the most unusual brightness than to the frame's."""
    grey_HW = image_HWC.mean(axis=2)
    frame = np.median(np.concatenate([grey_HW[0], grey_HW[-1], grey_HW[:, 0], grey_HW[:, -1]]))
    distance_HW = np.abs(grey_HW - frame)
    return distance_HW > np.quantile(distance_HW, 0.995) / 2


@pytest.mark.parametrize("number", range(8))
def test_an_x_is_full_in_the_middle_and_an_o_is_empty(number):
    assert is_ink(pixels("X", "clean", number))[28:36, 28:36].mean() > 0.5
    assert is_ink(pixels("O", "clean", number))[28:36, 28:36].mean() < 0.1


def test_difficulties_are_what_their_names_say():
    def over_numbers(difficulty, figure):
        return np.mean([figure(pixels(c, difficulty, n)) for c in "OX" for n in range(20)])

    def extent(image_HWC):
        return np.ptp(np.flatnonzero(is_ink(image_HWC).any(axis=1)))

    def distance_from_centre(image_HWC):
        return np.hypot(*(np.argwhere(is_ink(image_HWC)).mean(axis=0) - 31.5))

    def roughness(image_HWC):
        return np.abs(np.diff(image_HWC, axis=0)).mean()

    assert over_numbers("shrunken", extent) < 0.7 * over_numbers("clean", extent)
    assert over_numbers("shifted", distance_from_centre) > 3 * over_numbers("clean", distance_from_centre)
    assert over_numbers("deformed_noisy", roughness) > 2 * over_numbers("clean", roughness)
    assert draw("X", "rotated", 0, 0) != draw("X", "clean", 0, 0)

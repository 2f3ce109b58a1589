"""The contact sheet shows what training sees, of every class, and nothing in it runs."""

import contextlib
import re
import shutil
from pathlib import Path

import data_project
import numpy as np
import pytest
from image_folders import fill, jpeg
from PIL import Image
from projects import REPOSITORY

from pipeline import params
from pipeline.errors import ArtifactError, ParamsError
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.stages import browse, contact_sheet, layout

HOSTILE = "<script>alert(1)<b>"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    contents = {f"{label}/{number}.jpg": jpeg(number, 40, 60) for number in range(50) for label in ("a", HOSTILE)}
    fill(tmp_path / "photos", {**contents, "a/0\"onload='x'.jpg": jpeg(999, 40, 60), "c/only.jpg": jpeg(1000, 60, 40)})
    data_project.stages(tmp_path)
    return tmp_path


def test_every_class_is_shown_and_nothing_in_the_page_runs(project, capsys):
    browse.browse("train", num_per_class=3, num_epochs=2)
    assert "data/contact_sheet.html: 7 samples of 3 of 3 classes" in capsys.readouterr().out
    page = layout.CONTACT_SHEET.read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == 7 * 3
    assert "&lt;script&gt;alert(1)&lt;b&gt;" in page
    assert set(re.findall(r"<(script|b|iframe|link|object)\b", page)) == set()
    assert "onload='x'" not in page
    assert "default-src 'none'" in page
    assert "c/only.jpg" in page


def test_the_pictures_are_those_of_training(project):
    global_batch_size = params.read(layout.PARAMS, ["loading"])["loading"].global_batch_size
    sections = params.read(layout.PARAMS, ["augment", "model", "training"])
    with contextlib.closing(SplitReader(layout.INDEX, "train")) as reader:
        shown = [sample for each in browse._classes(reader, 1000, 2, np.copy, **sections) for sample in each.samples]
        paths = {sample.path: sample for sample in shown}
        assert len(paths) == reader.num_samples
        found = 0
        for epoch in range(2):
            steps = order(
                reader.shard_sizes,
                seed=sections["training"].seed,
                epoch=epoch,
                digest=reader.index.digest,
                global_batch_size=global_batch_size,
            )
            augmentation, side_px = Augmentation(**sections["augment"].of_one_image()), sections["model"].input_px
            made = training_batches(
                reader, steps, augmentation, input_px=side_px, rank=0, world_size=1, first_step=0, num_workers=0
            )
            for step, batch in enumerate(made):
                for number, image_CHW in zip(steps.step(step).tolist(), batch.images_BCHW.numpy(), strict=True):
                    picture_HWC = paths[browse._path(reader, number)].views[1 + epoch]
                    np.testing.assert_array_equal(picture_HWC, image_CHW.transpose(1, 2, 0))
                    found += 1
    assert found >= 2 * global_batch_size


def test_a_split_of_fewer_samples_than_a_batch(project, capsys):
    data_project.stages(project, validation_fraction=0.1)
    with contextlib.closing(SplitReader(layout.INDEX, "validation")) as reader:
        assert 0 < reader.num_samples < params.read(layout.PARAMS, ["loading"])["loading"].global_batch_size
    browse.browse("validation", num_per_class=2, num_epochs=2)
    assert "samples of 3 of 3 classes" in capsys.readouterr().out


def test_a_split_without_samples(project):
    with pytest.raises(ArtifactError, match=r"data/shards/index.json has no test samples; name another split with"):
        browse.browse("test", 1, 1)


def test_before_shard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(ArtifactError, match=r"data/shards/index.json does not exist; run `convoy shard` first"):
        browse.browse("train", 1, 1)


def test_a_png_holds_the_same_views_framed_and_in_rows(project, capsys):
    browse.browse("train", 3, 2, project / "sheet.png")
    assert "sheet.png: 7 samples of 3 of 3 classes" in capsys.readouterr().out
    sheet = np.asarray(Image.open(project / "sheet.png").convert("RGB"))
    sections = params.read(layout.PARAMS, ["augment", "model", "training"])
    with contextlib.closing(SplitReader(layout.INDEX, "train")) as reader:
        first = browse._classes(reader, 3, 2, browse._pixels, **sections)[0].samples[0]
    left, top = contact_sheet.MARGIN_PX, contact_sheet.TOP_PX + 48
    for number, view in enumerate(first.views):
        tile = np.asarray(Image.fromarray(view).resize((104, 104), Image.Resampling.LANCZOS))
        start = left + number * 108
        np.testing.assert_array_equal(sheet[top : top + 104, start : start + 104], tile)
    assert (sheet[top - 2 : top, left : left + 104] == 0).all(), "a frame around the first view"


def test_classes_that_have_no_room_on_a_png_are_left_out(monkeypatch):
    monkeypatch.setattr(contact_sheet, "MAX_HEIGHT_PX", 600)
    sample = contact_sheet.DrawnSample("a" * 500, [np.zeros((8, 8, 3), np.uint8)] * 3)
    sheet, num_classes = contact_sheet.draw_sheet("x", "y", [contact_sheet.DrawnClass("猫\n", [sample] * 7)] * 9)
    assert sheet.height <= 600
    assert num_classes == 1
    assert contact_sheet.draw_sheet("x", "y", [contact_sheet.DrawnClass("cat", [sample])] * 3)[1] == 2


def test_another_ending_is_refused(project):
    with pytest.raises(ParamsError, match=r"--output=sheet.pdf ends in neither .html nor .png"):
        browse.browse("train", 1, 1, Path("sheet.pdf"))

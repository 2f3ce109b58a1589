"""The contact sheet shows what training sees, of every class, and nothing in it runs."""

import contextlib
import re
import shutil

import data_project
import numpy as np
import pytest
from image_folders import fill, jpeg
from projects import REPOSITORY

from pipeline import params
from pipeline.errors import ArtifactError
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader
from pipeline.stages import browse, layout

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


def test_the_pictures_are_those_of_training(project, monkeypatch):
    monkeypatch.setattr(browse, "_uri", np.copy)
    sections = params.read(layout.PARAMS, ["loading", "augment", "model", "training"])
    with contextlib.closing(SplitReader(layout.INDEX, "train")) as reader:
        shown = [sample for each in browse._classes(reader, 1000, 2, **sections) for sample in each.samples]
        paths = {sample.path: sample for sample in shown}
        assert len(paths) == reader.num_samples
        found = 0
        for epoch in range(2):
            steps = order(
                reader.shard_sizes,
                seed=sections["training"].seed,
                epoch=epoch,
                digest=reader.index.digest,
                global_batch_size=sections["loading"].global_batch_size,
            )
            augmentation, side_px = Augmentation(**sections["augment"].of_one_image()), sections["model"].input_px
            made = training_batches(
                reader, steps, augmentation, input_px=side_px, rank=0, world_size=1, first_step=0, num_workers=0
            )
            for step, batch in enumerate(made):
                for number, image_CHW in zip(steps.step(step).tolist(), batch.images_BCHW.numpy(), strict=True):
                    picture_HWC = paths[browse._path(reader, number)].data_uris[1 + epoch]
                    np.testing.assert_array_equal(picture_HWC, image_CHW.transpose(1, 2, 0))
                    found += 1
    assert found >= 2 * sections["loading"].global_batch_size


def test_a_split_without_samples(project):
    with pytest.raises(ArtifactError, match=r"data/shards/index.json has no test samples; name another split with"):
        browse.browse("test", 1, 1)


def test_before_shard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    with pytest.raises(ArtifactError, match=r"data/shards/index.json does not exist; run `convoy shard` first"):
        browse.browse("train", 1, 1)

"""Row 22: empty, tiny and many classes; a class only in the test split; the order of classes: frozen, said, no NaN."""

import data_project
import numpy as np
import pytest
from image_folders import fill, jpeg, two_classes

from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, SourceError
from pipeline.evaluation.metrics import per_class
from pipeline.stages import layout
from pipeline.stages.evaluate import _check_classes


def test_an_empty_class_is_counted_and_is_no_class(tmp_path):
    two_classes(tmp_path / "photos", 5)
    (tmp_path / "photos/empty").mkdir()
    found = data_project.run(tmp_path)
    assert found.index.classes == ["cat", "dog"]
    assert found.ignored == {"empty_class": 1}


def test_a_class_of_one_image_is_said(tmp_path, capsys):
    two_classes(tmp_path / "photos", 20)
    fill(tmp_path / "photos", {"fox/1.jpg": jpeg(1000)})
    found = data_project.run(tmp_path)
    assert found.index.class_counts("train") == [20, 20, 1]
    assert found.audit["findings"]["rare_classes"]["examples"] == [["fox"]]
    assert "rare_classes: 1 class (fewer training samples than audit.min_training_samples)" in capsys.readouterr().out
    with pytest.raises(
        SourceError, match=r"rare_classes: 1 class .*, such as fox\n.* set audit.policies.rare_classes to warn"
    ):
        data_project.run(tmp_path, rare_classes="fail")


def test_a_class_only_in_the_test_split_is_said(tmp_path, capsys):
    contents = {f"train/{label}/{n}.jpg": jpeg(n + ord(label)) for label in "ab" for n in range(12)}
    contents |= {f"test/{label}/{n}.jpg": jpeg(500 + n + ord(label)) for label in "abc" for n in range(3)}
    fill(tmp_path / "photos", contents)
    found = data_project.run(tmp_path)
    assert found.index.classes == ["a", "b", "c"]
    assert found.index.class_counts("train")[2] == 0
    assert found.audit["findings"]["rare_classes"]["examples"] == [["c"]]
    assert "rare_classes: 1 class" in capsys.readouterr().out


def test_ten_thousand_classes(tmp_path):
    lines = ["image,label", *(f"{number % 2}.jpg,class {number}" for number in range(10_000))]
    fill(tmp_path, {"0.jpg": jpeg(0, 4, 4), "1.jpg": jpeg(1, 4, 4), "t.csv": "\n".join(lines).encode()})
    data_project.stages(tmp_path, "t.csv", samples_per_shard=5000)
    index = Index.read(layout.INDEX, "shard")
    assert len(index.classes) == 10_000
    assert index.class_counts("train") == [1] * 10_000
    assert index.classes == sorted(index.classes)


def test_the_order_of_the_classes_is_that_of_their_names_and_stands_in_the_index(tmp_path):
    fill(tmp_path / "photos", {f"{label}/{n}.jpg": jpeg(n + ord(label)) for label in "zay" for n in range(2)})
    found = data_project.run(tmp_path)
    assert found.index.classes == ["a", "y", "z"]
    assert all(found.index.classes[facts["label"]] == path[0] for path, facts in found.samples.items())
    before = found.index.digest
    fill(tmp_path / "photos", {f"b/{n}.jpg": jpeg(n + 7000) for n in range(2)})
    after = data_project.run(tmp_path).index
    assert after.classes == ["a", "b", "y", "z"]
    assert after.digest != before, "labels mean something else now: what was trained on the old ones must not fit"
    with pytest.raises(ArtifactError, match=r"label 1 is 'y' there, 'b' here"):
        _check_classes(["a", "y", "z"], Index.read(layout.INDEX, "shard").classes)


def test_no_figure_of_an_absent_class_is_nan():
    figures = per_class(np.array([0, 1, 1]), np.array([0, 1, 2]), num_classes=4)
    for name in ("precision_K", "recall_K", "f1_K"):
        assert np.isfinite(getattr(figures, name)).all()
    assert figures.occurring.tolist() == [True, True, True, False]

"""The stage on a real export and real tars. It lies here because it shares the shard writer with its neighbours."""

import csv
import json

import numpy as np
import projects
import pyarrow.parquet as pq
import pytest
import shard_sets
from audits import audit_with, picture

from pipeline import artifacts, params
from pipeline.errors import ArtifactError
from pipeline.findings import AuditPictures
from pipeline.metrics import Metrics
from pipeline.stages import layout
from pipeline.stages.evaluate import evaluate

CLASSES = ["dark", "light <b>"]
PARAMS = params.Evaluation(batch_size=4, top_k=5, num_mistakes=3)
LOADING = params.read(projects.REPOSITORY / "params.yaml")["loading"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """data/model: a tiny timm network, never trained."""
    import timm
    import torch

    from pipeline.registry import export

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=2)
    folder = tmp_path_factory.mktemp("export") / "model"
    sha256 = export.write(
        folder,
        model,
        backbone="test_resnet",
        classes=CLASSES,
        input_px=32,
        num_channels=3,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    return folder, sha256


@pytest.fixture
def repository(tmp_path, monkeypatch, exported, write_shards, encoded, run_record, history):
    """A folder as the train stage leaves it, and the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    samples = []
    for key in range(11):
        about = {"path": f"{key}.jpg", "width": 32, "height": 24, "metadata": {"hour": "day" if key % 3 else "night"}}
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        samples.append({"key": key, "image": encoded(colour), "label": int(key % 2), "about": about})
    index = write_shards(tmp_path / layout.SHARDS, CLASSES, {"train": samples[:2], "test": samples[2:]}, ["hour"])
    (tmp_path / layout.MODEL).symlink_to(exported[0])
    run_record(index.digest).write(layout.RUN)
    audit_with(leakage=(1, 2)).write(layout.AUDIT)
    AuditPictures(examples={"leakage": [[picture(1, "a.jpg"), picture(1, "b.jpg")]]}).write(layout.AUDIT_PICTURES)
    with layout.HISTORY.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(history)
        rows.writerows(zip(*history.values(), strict=True))
    return index


def test_the_stage_leaves_a_whole_report(repository, exported, capsys):
    evaluate(PARAMS, LOADING)
    assert sorted(path.name for path in layout.REPORT.iterdir()) == [
        "confusion.csv", "metrics.json", "predictions.parquet", "report.html",
    ]  # fmt: skip
    assert 'alt="b.jpg"' in layout.PAGE.read_text()
    table = pq.read_table(layout.PREDICTIONS)
    assert table["key"].to_pylist() == list(range(2, 11))
    assert table["label"].to_pylist() == [key % 2 for key in range(2, 11)]
    assert table["path"][0].as_py() == "2.jpg"
    assert table["slice_hour"].to_pylist() == ["day" if key % 3 else "night" for key in range(2, 11)]
    metrics = Metrics.read(layout.METRICS, "evaluate")
    assert metrics.num_samples == 9
    assert metrics.top1 == pytest.approx(np.mean(table["correct"].to_pylist()), abs=1e-12)
    assert (metrics.index_digest, metrics.weights_sha256) == (repository.digest, exported[1])
    assert metrics.slices["hour"]["night"]["num_samples"] == 3
    assert json.loads(table.schema.metadata[b"classes"]) == CLASSES
    assert len(layout.CONFUSION.read_text().splitlines()) == 10
    assert "light &lt;b&gt;" in layout.PAGE.read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert f"top-1 {metrics.top1:.2%}" in said
    assert "data/report/report.html" in said


def test_the_answers_are_those_of_the_exported_model(repository, exported, encoded):
    """By another way: timm's own loading, Pillow-decoded pixels, normalised by hand."""
    import timm
    import torch

    from pipeline.evaluation.samples import read_images
    from pipeline.imaging.decode import decode
    from pipeline.imaging.resizing import evaluation_view
    from pipeline.loading.read import SplitReader

    evaluate(PARAMS, LOADING)
    table = pq.read_table(layout.PREDICTIONS)
    model = timm.create_model(f"local-dir:{exported[0]}", pretrained=True).eval()
    images = read_images(SplitReader(layout.INDEX, "test").opened, repository, "test", range(2, 11))
    views = np.stack([evaluation_view(decode(images[key]), 32) for key in range(2, 11)])
    images_BCHW = (torch.from_numpy(views).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.no_grad():
        probability_BK = model(images_BCHW).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(table["probability"], probability_BK.max(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(table["predicted"], probability_BK.argmax(axis=1))


def test_a_second_time_gives_the_same_bytes(repository):
    contents = []
    for _ in range(2):
        evaluate(PARAMS, LOADING)
        contents.append({path.name: path.read_bytes() for path in layout.REPORT.iterdir()})
    assert contents[0] == contents[1]


def test_another_batch_size_gives_the_same_figures(repository):
    tables = []
    for batch_size in (1, 4, 64):
        evaluate(PARAMS.model_copy(update={"batch_size": batch_size}), LOADING)
        tables.append(pq.read_table(layout.PREDICTIONS))
    for table in tables[1:]:
        assert table["key"].equals(tables[0]["key"])
        np.testing.assert_allclose(table["loss"], tables[0]["loss"], rtol=1e-5)


def test_shards_that_the_run_never_saw_are_refused(repository, run_record):
    run_record("f" * 64).write(layout.RUN)
    with pytest.raises(ArtifactError, match=r"was trained on the shards ffffffffffff, .*run `convoy train`"):
        evaluate(PARAMS, LOADING)
    assert not layout.REPORT.exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["light <b>", "dark"], "2 classes that are not the 2 of .*label 0 is 'dark' there, 'light <b>' here"),
        ([*CLASSES, "third"], r"2 classes that are not the 3 of data/shards/index.json; run `convoy train`"),
    ],
)
def test_a_model_of_other_classes_is_refused(repository, run_record, classes, message):
    run_record(shard_sets.change(layout.INDEX, classes=classes).digest).write(layout.RUN)
    with pytest.raises(ArtifactError, match=message):
        evaluate(PARAMS, LOADING)


@pytest.mark.parametrize("shards", [{}, {"test": []}])
def test_a_data_set_without_test_samples_is_refused(repository, shards):
    shard_sets.change(layout.INDEX, splits={"train": repository.splits["train"], **shards})
    with pytest.raises(ArtifactError, match=r"has no test samples.*raise split.test_fraction in params.yaml"):
        evaluate(PARAMS, LOADING)


def test_a_missing_history_is_named(repository):
    layout.HISTORY.unlink()
    with pytest.raises(ArtifactError, match=r"data/history.csv does not exist; run `convoy train` first"):
        evaluate(PARAMS, LOADING)


def test_a_run_without_validation_is_reported_without_its_curve(repository):
    rows = layout.HISTORY.read_text().splitlines()
    without = [",".join("" if i in (3, 4) else cell for i, cell in enumerate(row.split(","))) for row in rows[1:]]
    layout.HISTORY.write_text("\n".join([rows[0], *without]) + "\n")
    evaluate(PARAMS, LOADING)
    page = layout.PAGE.read_text(encoding="utf-8")
    assert page.count("<polyline") == 1
    assert "training ends at 0.4" in page


@pytest.mark.parametrize("text", ["epoch,step\n1,2\n", "a\n1,2,3\n", f"{','.join(artifacts.HISTORY_COLUMNS)}\n1,x\n"])
def test_a_history_that_is_no_table_of_numbers_is_named(repository, text):
    layout.HISTORY.write_text(text)
    with pytest.raises(ArtifactError, match=r"data/history.csv is not a table of numbers with the columns epoch, step"):
        evaluate(PARAMS, LOADING)

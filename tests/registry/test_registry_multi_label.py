"""A multi-label model in the registry: what it answers, and how it is compared with the champion."""

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shape_pictures
import timm
import torch

from pipeline.artifacts import Run
from pipeline.errors import ArtifactError
from pipeline.metrics import MultiLabelMetrics, read_metrics
from pipeline.registry import export, paired
from pipeline.registry.classify import Classifier
from pipeline.registry.gate import Threshold
from pipeline.registry.register import register
from pipeline.tracking import store
from pipeline.tracking.address import resolve

DIGEST = "d" * 64
THRESHOLDS = [0.2, 0.5, 0.9]


def write_model(folder, seed=0) -> str:
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=3)
    return export.write(
        folder, model, backbone="test_resnet", classes=list(shape_pictures.CLASSES), input_px=32, num_channels=3,
        mean=[0.5] * 3, std=[0.2] * 3, thresholds=THRESHOLDS,
    )  # fmt: skip


def test_what_is_at_least_its_threshold_is_said_the_surest_first(tmp_path, monkeypatch):
    write_model(tmp_path / "model")
    classifier = Classifier(tmp_path / "model")
    rows = torch.tensor([[0.201, 0.6, 0.899], [0.1, 0.4, 0.1], [0.3, 0.9, 0.95]]).logit()
    monkeypatch.setattr(classifier._export.model, "forward", lambda images_BCHW: rows)
    answers = list(classifier.classify([shape_pictures.draw(number) for number in range(3)]))
    assert [answer.labels for answer in answers] == [["disc", "bar"], [], ["ring", "disc", "bar"]]
    assert list(answers[0].probabilities.values()) == pytest.approx([0.201, 0.6, 0.899], abs=1e-6)
    assert sum(answers[2].probabilities.values()) > 1.0


def table(path, probabilities_NK, labels, classes=b'["bar", "disc", "ring"]'):
    rows = {
        "key": pa.array(range(len(labels)), pa.uint64()),
        "path": [f"{n}.jpg" for n in range(len(labels))],
        "labels": pa.array(labels, pa.list_(pa.int32())),
        "probabilities": pa.array(np.asarray(probabilities_NK).tolist(), pa.list_(pa.float64())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows, metadata={b"classes": classes}), path)
    return path


@pytest.fixture
def case():
    random = np.random.default_rng(0)
    hot_NK = random.random((200, 3)) < 0.4
    labels = [np.flatnonzero(hot_K).tolist() for hot_K in hot_NK]
    good_NK = np.clip(random.normal(0.3 + 0.4 * hot_NK, 0.15), 0, 1)
    return good_NK, np.clip(good_NK + random.normal(0, 0.3, good_NK.shape), 0, 1), labels


def test_the_difference_of_two_models_is_that_of_the_same_images(tmp_path, case):
    good_NK, bad_NK, labels = case
    good, bad = table(tmp_path / "good", good_NK, labels), table(tmp_path / "bad", bad_NK, labels)
    low, high = paired.difference(good, bad)
    assert 0.0 < low < high
    assert paired.difference(bad, good) == pytest.approx((-high, -low))
    assert paired.difference(good, good) == (0.0, 0.0)


def test_tables_of_other_images_labels_or_classes_are_not_compared(tmp_path, case):
    good_NK, _, labels = case
    good = table(tmp_path / "good", good_NK, labels)
    others = [
        table(tmp_path / "fewer", good_NK[1:], labels[1:]),
        table(tmp_path / "relabelled", good_NK, [[0], *labels[1:]] if labels[0] != [0] else [[1], *labels[1:]]),
        table(tmp_path / "renamed", good_NK, labels, classes=b'["a", "disc", "ring"]'),
    ]
    single = tmp_path / "single"
    pq.write_table(pa.table({"key": [1], "path": ["a"], "label": [0]}), single)
    assert [paired.difference(good, other) for other in [*others, single]] == [None] * 4


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return resolve(None, tmp_path_factory.mktemp("a store"))


def enter(uri, folder, probabilities_NK, labels, mean_ap, seed, model="shapes"):
    """Registers a model with its own run and table; all fields of its figures are `mean_ap`."""
    client = store.connect(uri)
    experiment_id = store.find_or_create_experiment(client, uri, "convoy")
    run_id = client.create_run(experiment_id, run_name="trained").info.run_id
    client.set_terminated(run_id, "FINISHED")
    predictions = table(folder / "report" / "predictions.parquet", probabilities_NK, labels)
    names = ("mean_ap", "mean_ap_low", "mean_ap_high", "loss", "exact_match", "micro_precision", "micro_recall")
    metrics = MultiLabelMetrics(
        split="test", num_samples=len(labels), index_digest=DIGEST, weights_sha256=write_model(folder / "model", seed),
        per_class={}, slices={}, micro_f1=mean_ap, macro_f1=mean_ap, **dict.fromkeys(names, mean_ap),
    )  # fmt: skip
    metrics.write(folder / "report" / "metrics.json")
    run = Run(
        fingerprint="f" * 16, run_id=run_id, tracking_uri=uri, index_digest=DIGEST, backbone="test_resnet",
        num_parameters=1, num_steps=1, num_epochs=1, exported_epoch=1, ending="", world_size=1, attempts=1,
        train_seconds=1.0, images_per_second=1.0, validation={},
    )  # fmt: skip
    threshold = Threshold("mAP", "registry.min_mean_ap", 0.5)
    read = read_metrics(folder / "report" / "metrics.json")
    assert read == metrics
    return register(
        client, uri, experiment_id, folder / "model", model, threshold, run, read, [folder / "report"], predictions
    )


def test_a_challenger_is_held_back_when_it_is_worse_beyond_chance(uri, tmp_path, case):
    good_NK, bad_NK, labels = case
    first = enter(uri, tmp_path / "1", good_NK, labels, 0.95, seed=1)
    assert (first.alias, first.mean_ap, first.top1) == ("champion", 0.95, None)

    worse = enter(uri, tmp_path / "2", bad_NK, labels, 0.7, seed=2)
    assert worse.alias == "challenger"
    assert "by a paired bootstrap over the images: it is worse." in worse.reasons[1]

    alike = enter(uri, tmp_path / "3", good_NK, labels, 0.9499, seed=3)
    assert alike.alias == "champion"
    assert alike.reasons[1].endswith("it is not clearly worse.")

    image = shape_pictures.draw(7)
    served = mlflow.pyfunc.load_model("models:/shapes@champion")
    whole, broken = served.predict([image, b"no image"])
    (expected,) = Classifier(tmp_path / "3" / "model").classify([image])
    assert (whole.labels, whole.error) == (expected.labels, "")
    assert whole.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert (broken.labels, broken.probabilities) == ([], {})
    assert "image" in broken.error

    client = store.connect(uri)
    tags = client.get_model_version("shapes", alike.version).tags
    assert (float(tags["mean_ap"]), "top1" in tags) == (0.9499, False)
    figures = client.get_run(alike.run_id).data.metrics
    assert (figures["test/mean_ap"], figures["test/exact_match"]) == (0.9499, 0.9499)


def test_a_champion_whose_table_is_damaged_is_compared_by_its_figure(uri, tmp_path, case):
    good_NK, _, labels = case
    model = "damaged"
    enter(uri, tmp_path / "1", good_NK, labels, 0.9, seed=4, model=model)
    client = store.connect(uri)
    champion = client.get_model_version_by_alias(model, "champion")
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 cut short")
    client.log_artifact(champion.run_id, str(tmp_path / "predictions.parquet"), "report")
    better = enter(uri, tmp_path / "2", good_NK, labels, 0.95, seed=5, model=model)
    assert better.alias == "champion"
    assert "bootstrap" not in better.reasons[1]


def test_metrics_of_either_kind_are_known_by_the_file(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(
        ArtifactError,
        match=r"metrics\.json cannot be read: split: Field required; make it again with `convoy evaluate`",
    ):
        read_metrics(tmp_path / "metrics.json")
    with pytest.raises(ArtifactError, match="does not exist; run `convoy evaluate` first"):
        read_metrics(tmp_path / "none.json")

"""Runs in miniature on a multi-label set: what they leave, after a kill too, and for two ranks as for one."""

import json

import numpy as np
import pytest
import safetensors.torch
import shard_sets
import torch
from small_runs import KilledError, Sink, task

from pipeline import ranking
from pipeline.artifacts import Index
from pipeline.loading.batches import evaluation_batches
from pipeline.modeling import objective
from pipeline.training.fit import train_rank
from pipeline.training.folder import Result
from pipeline.training.network import build_network
from pipeline.training.task import Place

LABELS = [[[0], [1], [0, 1], [], [2]][number % 5] for number in range(54)]
"""A picture's colour says its first label only: enough to learn something, not everything."""

BCE = {"loss": "bce", "balance": "class_weights", "label_smoothing": 0.0}


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    return shard_sets.write(folder, {"train": [20, 23], "validation": [11]}, num_classes=4, labels=LABELS)


def small(index_path, folder, **augment):
    return task(index_path, folder, training=BCE, augment=augment)


def train(what, sink=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), (sink or Sink()).open)


def result_of(what) -> Result:
    return Result.read(what.run.result, made_by="train")


@pytest.fixture(scope="module")
def undisturbed(index_path, tmp_path_factory):
    what = small(index_path, tmp_path_factory.mktemp("undisturbed"))
    train(what)
    return what


def validated(what) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the weights that were left on the validation split, and the labels."""
    index = Index.read(what.index_path, "shard")
    network = build_network(what, index, is_fresh=False)
    network.load_state_dict(safetensors.torch.load_file(what.run.weights))
    network.eval()
    (batch,) = evaluation_batches(what.index_path, "validation", input_px=32, batch_size=11, num_workers=0)
    with torch.inference_mode():
        images_BCHW = objective.normalize(batch.images_BCHW, torch.tensor(index.mean), torch.tensor(index.std))
        views = [images_BCHW, torch.flip(images_BCHW, [3])] if what.model.mirror else [images_BCHW]
        logits_BK = torch.stack([network(view) for view in views]).mean(0)
        return logits_BK.double().sigmoid().numpy(), batch.labels_B.numpy()


def test_what_is_left_is_measured_by_mean_average_precision_and_has_a_threshold_for_each_class(undisturbed):
    result = result_of(undisturbed)
    probabilities_NK, hot_NK = validated(undisturbed)
    assert hot_NK.tolist() == [[int(label in each) for label in range(4)] for each in LABELS[43:]]
    expected = ranking.mean_average_precision(probabilities_NK, hot_NK)
    assert result.validation["mean_ap"] == pytest.approx(expected, abs=1e-6)
    assert [row["validation_mean_ap"] for row in result.history][-1] == result.validation["mean_ap"]
    assert "top1" not in result.validation
    assert result.thresholds == pytest.approx(ranking.best_thresholds(probabilities_NK, hot_NK).tolist(), abs=1e-4)
    assert result.thresholds[3] == 0.5  # no validation image has this class


@pytest.mark.parametrize(("stop_at", "metric"), [(7, "train/loss"), (15, "train/loss"), (10, "val/mean_ap")])
def test_killed_and_resumed_it_ends_the_same(index_path, undisturbed, tmp_path, stop_at, metric):
    what = small(index_path, tmp_path)
    with pytest.raises(KilledError):
        train(what, Sink(stop_at, metric))
    train(what)
    one, other = result_of(what), result_of(undisturbed)
    assert one.weights_sha256 == other.weights_sha256
    assert (one.thresholds, one.validation) == (other.thresholds, other.validation)


def test_mixed_images_train_too(index_path, undisturbed, tmp_path):
    what = small(index_path, tmp_path, mixup_alpha=0.4, cutmix_alpha=1.0)
    train(what)
    assert result_of(what).weights_sha256 != result_of(undisturbed).weights_sha256
    assert np.isfinite(result_of(what).history[-1]["train_loss"])


def test_with_patience_the_thresholds_are_those_of_the_weights_that_are_left(index_path, tmp_path):
    what = task(index_path, tmp_path, training={**BCE, "patience_epochs": 1, "ema_decay": 0.0}, lr=0.05, epochs=6)
    train(what)
    result = result_of(what)
    scores = [row["validation_mean_ap"] for row in result.history]
    assert result.exported_epoch == 1 + scores.index(max(scores)) < len(scores)
    assert result.validation["mean_ap"] == max(scores)
    assert f"validation mAP was highest in epoch {result.exported_epoch} " in result.ending
    probabilities_NK, hot_NK = validated(what)
    assert ranking.mean_average_precision(probabilities_NK, hot_NK) == pytest.approx(max(scores), abs=1e-6)
    assert result.thresholds == pytest.approx(ranking.best_thresholds(probabilities_NK, hot_NK).tolist(), abs=1e-4)


def test_with_mirror_validation_and_thresholds_are_of_both_views(index_path, undisturbed, tmp_path):
    what = task(index_path, tmp_path, training=BCE, model={"mirror": True})
    train(what)
    result = result_of(what)
    assert result.weights_sha256 == result_of(undisturbed).weights_sha256  # training knows nothing of it
    assert result.thresholds != result_of(undisturbed).thresholds
    probabilities_NK, hot_NK = validated(what)
    expected = ranking.mean_average_precision(probabilities_NK, hot_NK)
    assert result.validation["mean_ap"] == pytest.approx(expected, abs=1e-6)
    assert result.thresholds == pytest.approx(ranking.best_thresholds(probabilities_NK, hot_NK).tolist(), abs=1e-4)


def _rank(rank, what, rendezvous):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    sink = Sink()
    train_rank(what, Place(rank, 2, "cpu"), sink.open)
    (what.run.path / f"lines-{rank}.json").write_text(json.dumps(sink.lines))
    torch.distributed.destroy_process_group()


def test_two_ranks_measure_the_whole_split(index_path, tmp_path):
    what = small(index_path, tmp_path)
    torch.multiprocessing.spawn(_rank, (what, tmp_path / "rendezvous"), nprocs=2)
    result = result_of(what)
    assert result.world_size == 2
    probabilities_NK, hot_NK = validated(what)
    expected = ranking.mean_average_precision(probabilities_NK, hot_NK)
    assert result.validation["mean_ap"] == pytest.approx(expected, abs=1e-6)
    assert result.thresholds == pytest.approx(ranking.best_thresholds(probabilities_NK, hot_NK).tolist(), abs=1e-4)


def test_the_first_batch_is_drawn_with_all_its_labels(undisturbed):
    assert (undisturbed.run.files / "augmented_batch.png").exists()

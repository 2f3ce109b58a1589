"""Progressive resizing: which side an epoch trains at, and that neither a kill nor another rank changes a pixel."""

import pytest
import safetensors.torch
import shard_sets
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import KilledError, Sink, task

from pipeline.training import ledger
from pipeline.training.fit import train_rank
from pipeline.training.module import Classifier
from pipeline.training.sides import areas, largest_px, side_px
from pipeline.training.task import Place


@pytest.fixture(scope="module")
def index_path(tmp_path_factory):
    return shard_sets.write(tmp_path_factory.mktemp("shards"), {"train": [20, 23], "validation": [7]})


@pytest.fixture
def seen(monkeypatch):
    """Sides of the images that training and validation were given, in order."""
    sides = {"train": [], "validation": []}
    training_step, validation_step = Classifier.training_step, Classifier.validation_step
    monkeypatch.setattr(
        Classifier,
        "training_step",
        lambda self, batch, n: (sides["train"].append(batch.images_BCHW.shape[-1]), training_step(self, batch, n))[1],
    )
    monkeypatch.setattr(
        Classifier,
        "validation_step",
        lambda self, batch, n: (
            sides["validation"].append(batch.images_BCHW.shape[-1]),
            validation_step(self, batch, n),
        ),
    )
    return sides


def growing(index_path, folder, *sides, epochs=3, input_px=64):
    return task(
        index_path, folder, epochs=epochs, model={"input_px": input_px}, training={"progressive_px": sides or None}
    )


def run(what, sink=None):
    torch.set_num_threads(1)
    train_rank(what, Place(0, 1, "cpu"), (sink or Sink()).open)
    return safetensors.torch.load_file(what.run.weights)


WHAT = growing("index.json", None)


@given(st.integers(1, 40), st.lists(st.integers(1, 10), min_size=1, max_size=8).map(sorted))
def test_sides_rise_and_have_equal_parts_of_the_epochs(epochs, sides):
    if len(sides) > epochs:
        return
    training = WHAT.training.model_copy(update={"epochs": epochs, "progressive_px": tuple(32 * s for s in sides)})
    numbered = training.model_copy(update={"progressive_px": tuple(range(len(sides)))})
    parts = [side_px(epoch, WHAT.model, numbered) for epoch in range(epochs)]
    counts = [parts.count(number) for number in range(len(sides))]
    assert parts == sorted(parts)
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    chosen = [side_px(epoch, WHAT.model, training) for epoch in range(epochs)]
    assert chosen[-1] == largest_px(WHAT.model, training) == 32 * sides[-1]
    assert areas(0, WHAT.model, training) == pytest.approx([(side / chosen[-1]) ** 2 for side in chosen])
    assert areas(epochs, WHAT.model, training) == []


def test_without_a_list_every_epoch_has_the_models_side():
    what = growing("index.json", None, epochs=4)
    assert [side_px(epoch, what.model, what.training) for epoch in range(4)] == [64] * 4
    assert largest_px(what.model, what.training) == 64


def test_training_images_grow_and_validation_images_do_not(index_path, tmp_path, seen):
    what = growing(index_path, tmp_path, 32, 48, 64)
    run(what)
    assert seen == {"train": [32] * 5 + [48] * 5 + [64] * 5, "validation": [64] * 3}
    said = [line for line in what.run.notices.read_text().splitlines() if line.startswith("from epoch")]
    assert said == [
        "from epoch 2 on training images have 48 px",
        "from epoch 3 on training images have 64 px",
    ]


@pytest.mark.parametrize("stop_at", [3, 5, 7])
def test_killed_and_resumed_it_ends_with_the_same_bits(index_path, tmp_path, seen, stop_at):
    undisturbed = run(growing(index_path, tmp_path / "undisturbed", 32, 48, epochs=2))
    what = growing(index_path, tmp_path / "killed", 32, 48, epochs=2)
    with pytest.raises(KilledError):
        run(what, Sink(stop_at))
    seen["train"].clear()
    resumed = run(what)
    assert seen["train"] == ([32] * 5 + [48] * 5)[10 - len(seen["train"]) :]
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())


def test_the_order_of_samples_is_that_of_a_run_of_one_side(index_path, tmp_path):
    runs = growing(index_path, tmp_path / "one", 32, 64, epochs=2), growing(index_path, tmp_path / "other", epochs=2)
    for what in runs:
        run(what)
    one, other = ([entry.keys for entry in ledger.read(what.run.ledger)] for what in runs)
    assert one == other

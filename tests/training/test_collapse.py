"""The guard against networks that have learnt nothing: what it says, when, and when it keeps quiet."""

import math

import pytest

from pipeline.training.collapse import CollapseGuard


@pytest.fixture
def said():
    return []


def guard(said, counts=(50, 50), loss_in_nats=True):
    return CollapseGuard(["cat", "dog"], counts, lr=0.3, loss_in_nats=loss_in_nats, say=said.append)


def test_one_class_for_all_is_said_once_with_its_causes(said):
    watched = guard(said)
    for epoch in (1, 2, 3):
        watched.end_epoch(epoch, train_loss=0.4, predicted_K=[0, 23])
    (text,) = said
    assert text.startswith("collapse? after epoch 2 all 23 validation images are called 'dog'. Likely causes: ")
    assert "optimizer.lr=0.3 is too high" in text
    assert "labels that do not belong to their images: look at some with `convoy browse`" in text
    assert "of one class;" not in text


def test_guessing_is_said_and_an_unbalanced_set_is_its_first_cause(said):
    guard(said, counts=(90, 10)).end_epoch(2, train_loss=math.log(2) * 1.005, predicted_K=[12, 11])
    (text,) = said
    assert text.startswith(
        "collapse? epoch 2 ended with a mean loss of 0.6966, which is ln(2): guessing. Likely causes: "
    )
    assert "Likely causes: 90% of the training images are of one class; optimizer.lr" in text


@pytest.mark.parametrize(
    ("epoch", "loss", "predicted"),
    [(1, math.log(2), [0, 23]), (2, 0.4, [1, 22]), (2, 0.4, []), (2, math.log(2) * 1.02, [1, 22]), (2, 0.4, [0, 1])],
)
def test_it_keeps_quiet_otherwise(said, epoch, loss, predicted):
    guard(said).end_epoch(epoch, loss, predicted)
    assert said == []


def test_another_loss_may_happen_to_be_ln_of_the_classes(said):
    guard(said, loss_in_nats=False).end_epoch(2, math.log(2), [12, 11])
    assert said == []

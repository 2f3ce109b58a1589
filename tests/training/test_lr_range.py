"""The range test: the rates it tries, where it stops, and what it makes of losses whose shape is known."""

import math

import pytest

from pipeline.training import lr_range
from pipeline.training.lr_range import Tried


def test_rates_rise_by_the_same_factor_from_the_lowest_to_the_highest():
    seen = []
    tried = list(lr_range.climb(lambda lr: seen.append(lr) or 1.0, lowest=1e-4, highest=1.0, num_steps=5))
    assert seen == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert [each.lr for each in tried] == seen
    assert [each.smoothed for each in tried] == pytest.approx([1.0] * 5)


def test_smoothing_is_the_mean_weighed_by_age():
    losses = iter([4.0, 2.0, 3.0])
    tried = list(lr_range.climb(lambda lr: next(losses), lowest=1e-3, highest=1e-1, num_steps=3))
    weights = [lr_range.SMOOTHING**2, lr_range.SMOOTHING, 1.0]
    by_hand = sum(w * loss for w, loss in zip(weights, [4.0, 2.0, 3.0], strict=True)) / sum(weights)
    assert tried[-1].smoothed == pytest.approx(by_hand)


@pytest.mark.parametrize(("bad", "told"), [(math.nan, 3), (math.inf, 3), (1e6, 4)])
def test_it_stops_when_training_comes_apart(bad, told):
    losses = iter([2.0, 1.9, 1.8, bad, 1.0, 1.0])
    assert len(list(lr_range.climb(lambda lr: next(losses), lowest=1e-4, highest=1.0, num_steps=6))) == told


def tried(losses):
    return [Tried(10.0**-number, loss, loss) for number, loss in zip(range(6, 0, -1), losses, strict=False)]


def climbed(loss_at, num_steps):
    return list(lr_range.climb(loss_at, lowest=1e-6, highest=1.0, num_steps=num_steps))


def falls_at(middle, rises_at=math.inf):
    """A loss that falls from 2 to 1 within half an order of magnitude around a rate, and comes apart at another."""
    return lambda lr: (
        1.0 + 1.0 / (1.0 + (lr / middle) ** 4) + 0.02 * math.sin(1e9 * lr) + (9.0 if lr > rises_at else 0.0)
    )


@pytest.mark.parametrize("num_steps", [50, 100, 400])
@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
def test_the_rate_at_which_the_loss_falls_is_found_though_the_smoothed_loss_is_late(middle, num_steps):
    finding = lr_range.judge(climbed(falls_at(middle), num_steps))
    assert middle / 2.0 < finding.steepest < middle * 2.0
    assert finding.suggested == min(finding.steepest, finding.lowest / 10.0)


def test_on_a_loss_that_falls_to_the_highest_rate_the_fall_is_what_counts():
    """As on a problem so easy that the last of it is learnt at rates that destroy what takes longer."""
    slow = falls_at(1e-3)
    finding = lr_range.judge(climbed(lambda lr: slow(lr) - 0.02 * math.log10(lr), 100))
    assert finding.lowest == pytest.approx(1.0)
    assert finding.suggested < 3e-3


def test_a_tenth_of_the_lowest_is_suggested_where_that_is_less():
    finding = lr_range.judge(climbed(falls_at(1e-3, rises_at=2e-3), 400))
    assert finding.lowest < 1e-2
    assert finding.suggested == finding.lowest / 10.0
    assert finding.suggested < finding.steepest


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.1, 1.2, 1.3]])
def test_a_loss_that_never_fell_says_nothing(losses):
    assert lr_range.judge(tried(losses)) is None

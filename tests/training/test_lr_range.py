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


def test_the_lowest_and_where_the_loss_falls_fastest_are_found():
    finding = lr_range.judge(tried([2.0, 1.9, 1.2, 0.9, 0.8, 3.0]))
    assert (finding.suggested, finding.lowest) == (pytest.approx(math.sqrt(1e-5 * 1e-4)), 1e-2)


def test_a_tenth_of_the_lowest_is_suggested_where_the_loss_falls_fastest_above_it():
    finding = lr_range.judge(tried([2.0, 1.9, 1.85, 1.8, 0.8, 3.0]))
    assert (finding.suggested, finding.lowest) == (pytest.approx(1e-3), 1e-2)
    assert finding.steepest == pytest.approx(math.sqrt(1e-3 * 1e-2))


def test_no_more_is_suggested_than_where_the_loss_falls_fastest():
    """As on a problem so easy that the loss goes on falling to the highest rate."""
    finding = lr_range.judge(tried([2.0, 1.9, 1.0, 0.7, 0.6, 0.5]))
    assert (finding.lowest, finding.steepest) == (pytest.approx(0.1), pytest.approx(math.sqrt(1e-5 * 1e-4)))
    assert finding.suggested == finding.steepest


def test_a_fall_between_two_near_rates_is_chance():
    rates = [1e-3 * 1.2**number for number in range(12)]
    losses = [2.0, 1.99, 1.6, 1.98, 1.97, 1.96, 1.8, 1.6, 1.4, 1.2, 1.1, 1.05]
    finding = lr_range.judge([Tried(lr, loss, loss) for lr, loss in zip(rates, losses, strict=True)])
    assert finding.steepest > rates[4]


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.1, 1.2, 1.3]])
def test_a_loss_that_never_fell_says_nothing(losses):
    assert lr_range.judge(tried(losses)) is None

"""The gate: every combination has its verdict and says why."""

import pytest

from pipeline.registry.gate import Difference, Measured, Threshold, decide

TOP1 = Threshold("top-1", "registry.min_top1", 0.9)


def measured(version, top1, index_digest="a" * 64):
    return Measured(version, top1, 100, index_digest)


@pytest.mark.parametrize(("top1", "promoted", "word"), [(0.9, True, "at least"), (0.8999, False, "under")])
def test_the_first_model_has_the_threshold_only(top1, promoted, word):
    verdict = decide(measured("1", top1), None, TOP1)
    assert verdict.promoted is promoted
    assert f"{word} registry.min_top1=0.9" in verdict.reasons[0]
    assert verdict.reasons[1] == "There is no measured champion to compare with."


@pytest.mark.parametrize(
    ("top1", "champion_top1", "promoted"),
    [(0.95, 0.94, True), (0.95, 0.95, True), (0.95, 0.96, False), (0.8, 0.7, False)],
)
def test_on_the_same_data_the_champion_has_a_say(top1, champion_top1, promoted):
    verdict = decide(measured("2", top1), measured("1", champion_top1), TOP1)
    assert verdict.promoted is promoted
    word = "not worse" if top1 >= champion_top1 else "worse"
    assert verdict.reasons[1].endswith(f"has {champion_top1:.4f}: the challenger is {word}.")


@pytest.mark.parametrize(("top1", "promoted"), [(0.91, True), (0.89, False)])
def test_on_other_data_the_threshold_alone_decides(top1, promoted):
    verdict = decide(measured("2", top1), measured("1", 0.99, index_digest="b" * 64), TOP1)
    assert verdict.promoted is promoted
    assert "not comparable, the threshold alone decides" in verdict.reasons[1]


def test_the_champion_itself_is_not_its_own_rival():
    verdict = decide(measured("1", 0.95), measured("1", 0.99), TOP1)
    assert verdict.promoted
    assert verdict.reasons[1] == "Version 1 is the champion already."


@pytest.mark.parametrize(
    ("difference", "promoted", "word"),
    [
        (Difference(-0.03, 0.01), True, "not clearly worse"),
        (Difference(-0.03, 0.0), True, "not clearly worse"),
        (Difference(-0.03, -0.01), False, "worse"),
        (Difference(0.01, 0.03), True, "not clearly worse"),
    ],
)
def test_an_interval_decides_where_there_is_one(difference, promoted, word):
    threshold = Threshold("mAP", "registry.min_mean_ap", 0.5)
    verdict = decide(measured("2", 0.94), measured("1", 0.95), threshold, difference)
    assert verdict.promoted is promoted
    assert verdict.reasons[0] == "Test mAP 0.9400 over 100 images is at least registry.min_mean_ap=0.5."
    assert "-0.0100, has the 95 % interval" in verdict.reasons[1]
    assert verdict.reasons[1].endswith(f"by a paired bootstrap over the images: it is {word}.")
    assert not decide(measured("2", 0.4), measured("1", 0.3), threshold, difference).promoted

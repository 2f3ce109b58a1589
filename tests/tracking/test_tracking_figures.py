"""A run's newest figures in words, and a live line that fits whatever the figures are."""

import dataclasses

import pytest

from pipeline.tracking.figures import Figures, live_text, plain_text

TRAINED = {"train/loss": 1.48371, "train/images_per_second": 23_765.6, "loader/wait_fraction": 0.124}
VALIDATED = {"val/top1": 0.63791, "val/loss": 1.18126, "val/epochs_without_gain": 1.0}


def some_figures(**changes):
    figures = Figures(
        epoch=3,
        num_epochs=90,
        step=147,
        num_steps=4410,
        metrics=TRAINED | VALIDATED,
        patience_epochs=None,
        seconds_left=3540.0,
    )
    return dataclasses.replace(figures, **changes)


def test_a_plain_line():
    told = "epoch 3/90 step 147/4410 | loss 1.4837 | 23,766 img/s"
    validated = f"{told} | validation top-1 0.6379 loss 1.1813"
    assert plain_text(some_figures(), True) == f"{validated} | wait 12 % | 59 min left"
    assert plain_text(some_figures(), False) == f"{told} | wait 12 % | 59 min left"
    assert plain_text(some_figures(patience_epochs=2), True) == (
        f"{validated} | 1 of 2 epochs without gain | wait 12 % | 59 min left at most"
    )


def test_a_multi_label_set_has_its_own_score():
    figures = some_figures(metrics=TRAINED | {"val/mean_ap": 0.5, "val/loss": 1.0})
    assert "| validation mAP 0.5000 loss 1.0000 |" in plain_text(figures, True)
    assert "  mAP 0.500  " in live_text(figures, 80)


@pytest.mark.parametrize(
    ("wait", "told"),
    [(None, ""), (0.0, ""), (0.0099, ""), (0.01, "wait 1 %"), (0.126, "wait 13 %"), (1.0, "wait 100 %")],
)
def test_a_wait_is_told_from_one_percent_on(wait, told):
    metrics = {name: value for name, value in TRAINED.items() if name != "loader/wait_fraction"}
    if wait is not None:
        metrics["loader/wait_fraction"] = wait
    figures = some_figures(metrics=metrics)
    assert plain_text(figures, False).split(" | ")[3:] == [*filter(None, [told]), "59 min left"]
    assert live_text(figures, 80).split("  ")[3:] == [*filter(None, [told]), "59 min left"]


@pytest.mark.parametrize(
    ("seconds", "plain", "live"),
    [
        (0.2, "1 s left", "1 s left"),
        (29.4, "29 s left", "29 s left"),
        (200.0, "3 min left", "3 min left"),
        (7500.0, "2 h 5 min left", "2.1 h left"),
        (183_600.0, "2 d 3 h 0 min left", "51.0 h left"),
    ],
)
def test_time_left(seconds, plain, live):
    figures = some_figures(seconds_left=seconds)
    assert plain_text(figures, True).split(" | ")[-1] == plain
    assert live_text(figures, 80).split("  ")[-1] == live


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_a_time_left_that_nobody_knows_or_that_is_over_is_not_told(seconds):
    figures = some_figures(seconds_left=seconds)
    assert plain_text(figures, True).endswith(" | wait 12 %")
    assert live_text(figures, 80).endswith("  wait 12 %")


def test_the_live_line_of_a_usual_run_is_whole_beside_a_spinner_in_80_columns():
    assert live_text(some_figures(), 78) == (
        "step 147/4410  loss 1.4837  top-1 0.638  23,766 img/s  wait 12 %  59 min left"
    )
    assert live_text(some_figures(patience_epochs=2), 78) == (
        "147/4410  loss 1.4837  top-1 0.638  23,766 img/s  wait 12 %  59 min at most"
    )
    assert live_text(some_figures(step=147_000, num_steps=450_000, seconds_left=86_000.0), 78) == (
        "147000/450000  loss 1.4837  top-1 0.638  23,766 img/s  wait 12 %  23.9 h left"
    )
    assert live_text(some_figures(metrics=TRAINED), 78) == (
        "step 147/4410  loss 1.4837  23,766 img/s  wait 12 %  59 min left"
    )


def test_one_figure_after_another_gives_way_and_the_time_left_stays():
    texts = {live_text(some_figures(), columns) for columns in range(21, 200)}
    assert sorted(texts, key=len, reverse=True) == [
        "step 147/4410  loss 1.4837  top-1 0.638  23,766 img/s  wait 12 %  59 min left",
        "147/4410  loss 1.4837  top-1 0.638  23,766 img/s  wait 12 %  59 min left",
        "147/4410  loss 1.4837  top-1 0.638  23,766 img/s  59 min left",
        "147/4410  loss 1.4837  top-1 0.638  59 min left",
        "147/4410  loss 1.4837  59 min left",
        "147/4410  59 min left",
    ]
    for columns in range(21, 200):
        assert len(live_text(some_figures(), columns)) <= columns

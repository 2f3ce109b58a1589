"""The time a run still takes, from stated time stamps."""

import pytest

from pipeline.tracking.pace import Pace


def seconds_left(marks, num_steps, *, steps_per_epoch=100, after_seconds=0.0):
    pace = Pace(steps_per_epoch, after_seconds)
    for mark in marks:
        pace.take(*mark)
    return pace.seconds_left(num_steps)


def test_nothing_is_known_before_a_second_step():
    assert seconds_left([], 10) is None
    assert seconds_left([(1, 50.0)], 10) is None
    assert seconds_left([(2, 50.0), (2, 53.0)], 10) is None  # a step and its validation
    assert seconds_left([(1, 50.0), (2, 53.0)], 10) == 8 * 3.0


def test_what_came_before_the_first_line_is_no_pace():
    assert seconds_left([(40, 1000.0), (50, 1005.0)], 90) == 40 * 0.5


def test_nothing_is_left_after_the_last_step():
    assert seconds_left([(1, 50.0), (2, 53.0)], 2) == 0.0


def test_the_validation_counts():
    assert seconds_left([(1, 1.0), (2, 2.0), (2, 9.0)], 4, steps_per_epoch=2) == 2 * 8.0
    assert seconds_left([(2, 2.0), (2, 9.0), (3, 10.0), (4, 11.0), (4, 18.0)], 8, steps_per_epoch=2) == 4 * 4.5


def test_an_epoch_that_is_slower_than_those_before_decides_alone():
    quick = [(step, float(step)) for step in range(1, 5)]
    assert seconds_left([*quick, (5, 14.0), (6, 24.0)], 10, steps_per_epoch=2) == 4 * 10.0
    assert seconds_left([*quick, (5, 14.0), (6, 24.0)], 10, steps_per_epoch=4) == 4 * 22.0 / 4


def test_where_epochs_are_shorter_than_what_is_told_two_marks_are_left():
    assert seconds_left([(10, 10.0), (20, 40.0), (30, 100.0)], 40, steps_per_epoch=5) == 10 * 6.0


@pytest.mark.parametrize("num_new", [0, 1])
def test_an_earlier_attempt_and_the_pause_after_it_do_not_count(num_new):
    earlier = [(1, 1.0), (2, 2.0), (3, 3.0)]
    new = [(4, 90_000.0)] * num_new
    assert seconds_left([*earlier, *new], 10, after_seconds=3.0) is None
    assert seconds_left([*earlier, *new, (5, 90_010.0), (6, 90_017.0)], 10, after_seconds=3.0) == pytest.approx(
        4 * (17 / 2 if num_new else 7)
    )


def test_steps_that_are_done_again_begin_anew():
    before = [(step, float(step)) for step in range(1, 9)]
    read_again = before[:4]  # the restart cut the others off
    assert seconds_left([*before, *read_again, (5, 5000.0)], 20) is None
    assert seconds_left([*before, *read_again, (5, 5000.0), (6, 5002.0)], 20) == 14 * 2.0

"""Average precision against scikit-learn, and thresholds against trying all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from pipeline.ranking import average_precisions, best_thresholds, mean_average_precision

CASES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0]), st.integers(0, 1)), min_size=1, max_size=30
)


def columns(*cases: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    scores, hot = zip(*(zip(*case, strict=True) for case in cases), strict=True)
    return np.array(scores).T, np.array(hot, np.uint8).T


@given(CASES)
def test_average_precision_is_that_of_scikit_learn(case):
    scores_N1, hot_N1 = columns(case)
    (found,) = average_precisions(scores_N1, hot_N1)
    if not hot_N1.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(average_precision_score(hot_N1[:, 0], scores_N1[:, 0]), abs=1e-12)


def test_the_mean_is_over_the_classes_that_there_are():
    first, second, absent = [(0.9, 1), (0.1, 0)], [(0.9, 0), (0.1, 1)], [(0.3, 0), (0.2, 0)]
    assert mean_average_precision(*columns(first, second, absent)) == pytest.approx((1.0 + 0.5) / 2)
    assert np.isnan(mean_average_precision(*columns(absent)))


@given(CASES)
def test_the_order_of_the_images_plays_no_part(case):
    scores_N1, hot_N1 = columns(case)
    (found,), (turned,) = average_precisions(scores_N1, hot_N1), average_precisions(scores_N1[::-1], hot_N1[::-1])
    assert found == turned or (np.isnan(found) and np.isnan(turned))


@given(CASES)
def test_no_threshold_gives_a_higher_f1(case):
    scores_N1, hot_N1 = columns(case)
    (threshold,) = best_thresholds(scores_N1, hot_N1)
    scores_N, hot_N = scores_N1[:, 0], hot_N1[:, 0]
    if not hot_N.any():
        assert threshold == 0.5
        return
    reached = f1_score(hot_N, scores_N >= threshold, zero_division=0.0)
    assert reached == pytest.approx(max(f1_score(hot_N, scores_N >= each, zero_division=0.0) for each in set(scores_N)))


def test_a_threshold_lies_between_what_has_the_class_and_what_has_not():
    assert best_thresholds(*columns([(0.9, 1), (0.7, 1), (0.3, 0), (0.1, 0)])) == pytest.approx([0.5])
    assert best_thresholds(*columns([(0.9, 1), (0.7, 1)])) == pytest.approx([0.35])

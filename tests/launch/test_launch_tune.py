"""What Ray Tune is handed: ranges in its terms, and the searcher that was asked for."""

import sys

import pytest

from pipeline.errors import ClusterError
from pipeline.launch import tune
from pipeline.launch.tune import Range


def draws(wanted, count=400):
    domain = tune._domain(wanted)
    return [domain.sample() for _ in range(count)]


def test_ranges_are_drawn_from_as_they_say():
    assert set(draws(Range(choices=("a", None, 3)))) == {"a", None, 3}
    even = draws(Range(1.0, 100.0))
    assert min(even) >= 1.0
    assert max(even) <= 100.0
    assert 35 < sorted(even)[200] < 65
    by_logarithm = draws(Range(1.0, 100.0, is_log=True))
    assert min(by_logarithm) >= 1.0
    assert max(by_logarithm) <= 100.0
    assert 5 < sorted(by_logarithm)[200] < 20


def test_optuna_is_used_when_it_is_asked_for(monkeypatch):
    assert type(tune._searcher(0, with_optuna=False)).__name__ == "BasicVariantGenerator"
    assert type(tune._searcher(0, with_optuna=True)).__name__ == "OptunaSearch"
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ClusterError, match=r"--optuna needs Optuna, which is not installed: pip install"):
        tune._searcher(0, with_optuna=True)

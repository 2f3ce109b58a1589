"""What Ray Tune is handed, ranges in its terms and the searcher that was asked for; and what it makes of trials."""

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


@pytest.fixture
def search(address, tmp_path):
    """Searches with four trials of four epochs, of which two are for grace, two at once; gives the outcomes and what
    was said."""

    def search(trial, space, seed=1):
        said = []
        outcomes = tune.search(
            trial,
            space,
            num_trials=4,
            num_epochs=4,
            grace_epochs=2,
            cores_per_trial=1,
            seed=seed,
            with_optuna=False,
            address=address,
            folder=tmp_path,
            say=said.append,
        )
        return outcomes, said

    return search


# Trials are closures over plain values: a worker cannot import a test's module.


@pytest.mark.slow
def test_a_trial_has_its_cores_and_is_stopped_after_its_grace_and_the_best_is_not(search):
    def trial(values, report):
        import ray

        assert ray.get_runtime_context().get_assigned_resources()["CPU"] == 1.0
        for epoch in range(1, 5):
            report(epoch, values["quality"])

    space = {"quality": Range(0.0, 1.0)}
    outcomes, said = search(trial, space)
    assert [outcome.problem for outcome in outcomes] == [None] * 4
    qualities = [outcome.values["quality"] for outcome in outcomes]
    assert [outcome.score for outcome in outcomes] == qualities
    lengths = [outcome.num_epochs for outcome in outcomes]
    assert max(outcomes, key=lambda outcome: outcome.score).num_epochs == 4
    assert set(lengths) <= {2, 3, 4}, "nobody is stopped within its grace"
    worst = qualities.index(min(qualities))
    assert worst >= 2, "who comes first has nobody to lag behind; this one begins when another has ended"
    assert lengths[worst] == 2
    heads = [line.partition(":")[0] for line in said]
    for number in (1, 2, 3, 4):
        assert heads.index(f"trial {number} begins") < heads.index(f"trial {number} ends"), said
    assert len(heads) == 8

    again, _ = search(trial, space)
    assert [outcome.values for outcome in again] == [outcome.values for outcome in outcomes]
    others, _ = search(trial, space, seed=2)
    assert not {outcome.values["quality"] for outcome in others} & set(qualities)


@pytest.mark.slow
def test_a_trial_that_fails_says_why_and_the_others_go_on(search):
    def trial(values, report):
        if values["name"] == "bad":
            raise ValueError("no luck")
        report(1, 0.5)

    outcomes, said = search(trial, {"name": Range(choices=("bad", "good"))})
    assert {(each.values["name"], each.score, each.problem) for each in outcomes} <= {
        ("bad", None, "ValueError: no luck"), ("good", 0.5, None),
    }  # fmt: skip
    assert len({each.values["name"] for each in outcomes}) == 2
    assert sum("ends: 0.5000 after epoch 1" in line for line in said) == sum(each.score == 0.5 for each in outcomes)

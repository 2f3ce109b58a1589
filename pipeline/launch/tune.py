"""A search over parameters by Ray Tune: which values are tried next, which trials go on, which are stopped early.

Trials that lag behind after a few epochs are stopped (ASHA: Li et al. 2020). Values are drawn at random, the same for
the same seed; Optuna's follow from what the trials before came to, whichever that were.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ClusterError
from pipeline.launch import cluster

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # else it prints a table of its own, whatever verbosity is asked for
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # else it logs every trial three times more
}

Value = str | int | float | bool | None
Report = Callable[[int, float], None]
"""Tells a trial's epoch, counted from 1, and its score. It does not come back when the trial is to end."""


@dataclass(frozen=True)
class Range:
    """What one parameter may be: numbers between two, evenly or by their logarithm, or one of some choices."""

    low: float = 0.0
    high: float = 0.0
    is_log: bool = False
    choices: Sequence[Value] = ()


@dataclass(frozen=True)
class Outcome:
    """A trial that ended."""

    values: dict[str, Value]
    score: float | None
    """Of its last epoch; None when it had none."""
    num_epochs: int
    problem: str | None
    """Why it failed."""


def search(
    trial: Callable[[dict[str, Value], Report], None],
    space: Mapping[str, Range],
    *,
    num_trials: int,
    num_epochs: int,
    grace_epochs: int,
    cores_per_trial: int,
    seed: int,
    with_optuna: bool,
    address: str | None,
    folder: Path,
    say: Callable[[str], None],
) -> list[Outcome]:
    """Runs `trial` in worker processes, as many at once as the cluster has cores for; the outcomes as they began.

    A trial may be stopped after `grace_epochs` and ends after `num_epochs`. `folder` takes Ray Tune's own files.
    Raises ClusterError.
    """
    os.environ.update(_ENVIRONMENT)
    with cluster.connected(cluster.to_join(address)) as head:
        import ray
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        def run(config: dict[str, Value]) -> None:
            trial(config, lambda epoch, score: tune.report({"epoch": epoch, "score": score}))

        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        tuner = tune.Tuner(
            tune.with_resources(run, {"cpu": cores_per_trial, "gpu": gpus}),
            param_space={name: _domain(each) for name, each in space.items()},
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=num_trials,
                search_alg=_searcher(seed, with_optuna),
                # One epoch more than there are: who comes to the last one still has its result to write.
                scheduler=ASHAScheduler(time_attr="epoch", max_t=num_epochs + 1, grace_period=grace_epochs),
            ),
            run_config=tune.RunConfig(
                # A name of its own for each search: Ray Tune would take an old one's trials for this one's.
                name=f"search-{len(list(folder.iterdir())) + 1:04d}",
                storage_path=str(folder.absolute()),
                verbose=0,
                callbacks=[_telling(say)],
            ),
        )
        return [_outcome(result) for result in head.watched(tuner.fit)]


def _domain(wanted: Range) -> object:
    from ray import tune

    if wanted.choices:
        return tune.choice(list(wanted.choices))
    return (tune.loguniform if wanted.is_log else tune.uniform)(wanted.low, wanted.high)


def _searcher(seed: int, with_optuna: bool) -> object:
    if not with_optuna:
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=seed)
    from ray.tune.search.optuna import OptunaSearch

    try:
        import optuna
    except ImportError as exc:
        raise ClusterError("--optuna needs Optuna, which is not installed: pip install 'convoy[sweep]'.") from exc
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(seed=seed)


def _telling(say: Callable[[str], None]) -> object:
    """A line for each trial that begins or ends."""
    from ray.tune import Callback

    class Telling(Callback):
        def __init__(self, say: Callable[[str], None]):
            self._say = say

        def __getstate__(self) -> dict:
            return {}  # Ray Tune writes its callbacks to disk, and a terminal is nothing to write

        def on_trial_start(self, iteration: int, trials: list, trial: object, **_info: object) -> None:
            self._say(f"trial {trials.index(trial) + 1} begins: {_listed(trial.config)}")

        def on_trial_complete(self, iteration: int, trials: list, trial: object, **_info: object) -> None:
            last = trial.last_result or {}
            score = f"{last['score']:.4f} after epoch {last['epoch']}" if "score" in last else "without a score"
            self._say(f"trial {trials.index(trial) + 1} ends: {score}")

    return Telling(say)


def _listed(values: Mapping[str, Value]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def _outcome(result: object) -> Outcome:
    metrics = result.metrics or {}
    lines = str(result.error).strip().splitlines() if result.error else []
    return Outcome(
        values=dict(result.config or {}),
        score=metrics.get("score"),
        num_epochs=metrics.get("epoch", 0),
        problem=lines[-1] if lines else None,
    )

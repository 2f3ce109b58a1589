"""One trial of a sweep, in a worker's process: params.yaml with the trial's values, trained by one rank.

It is a run like any other, in a folder of its own, so that it goes on after a kill and the best need not be trained
again; in MLflow it lies under the sweep's run.
"""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import TrainingError
from pipeline.stages import layout, recipe, space
from pipeline.stages.publish import turn
from pipeline.stages.task import describe, is_done, read_result, run_root, sections_of_task, write_plan
from pipeline.stages.tracked import DRAIN_SECONDS, committed, end_tags, open_sink, open_tracker

if TYPE_CHECKING:
    from pipeline.tracking.machine import WithMachine
    from pipeline.tracking.mlflow import Tracker
    from pipeline.training.task import Task


def run_trial(
    workspace: Path,
    parent_run_id: str | None,
    num_threads: int,
    values: dict[str, object],
    report: Callable[[int, float], None],
) -> None:
    """Trains to the end, telling each epoch's validation figure; a run that is done tells them again.

    Of two trials of the same values at once, the second waits for the first and tells what that came to. Raises
    TrainingError when it was stopped before its end.
    """
    os.chdir(workspace)
    task = task_with(values)
    task.run.path.mkdir(parents=True, exist_ok=True)
    scores = Scores(report, keeps_best=task.training.patience_epochs is not None)
    with turn(task.run.path / ".lock", lambda text: None):
        is_told = not is_done(task.run)
        if is_told:
            task.run.stop.unlink(missing_ok=True)  # a wish of an earlier command
            _train(task, parent_run_id, num_threads, scores)
    if not is_told:
        score_name = Index.read(layout.INDEX, made_by="shard").score_name
        for row in read_result(task.run).history:
            scores.tell(row["epoch"], row[f"validation_{score_name}"])
    scores.end(task.training.epochs)


class Scores:
    """What the search is told of a run. With patience an epoch's score is the best so far, which is what the run would
    leave; and a run that ended early has it for its last epoch, too, having been trained for as long as it needed."""

    def __init__(self, report: Callable[[int, float], None], *, keeps_best: bool):
        self._report, self._keeps_best = report, keeps_best
        self._best = 0.0
        self._epoch = 0

    def tell(self, epoch: int, score: float) -> None:
        self._epoch, self._best = epoch, max(self._best, score)
        self._report(epoch, self._best if self._keeps_best else score)

    def end(self, num_epochs: int) -> None:
        if self._epoch < num_epochs:
            self._report(num_epochs, self._best)


def task_with(values: dict[str, object]) -> "Task":
    """The task of params.yaml with these values in it. Raises ParamsError for values that it refuses."""
    changes = yaml.safe_dump(space.sections(values))
    text, _ = recipe.merged(layout.PARAMS.read_text(encoding="utf-8"), changes, Path("the trial"))
    index = Index.read(layout.INDEX, made_by="shard")
    return describe(index, **params.parse(text, layout.PARAMS, sections_of_task()))


def _train(task: "Task", parent_run_id: str | None, num_threads: int, scores: Scores) -> None:
    import torch

    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    torch.set_num_threads(num_threads)
    index = Index.read(layout.INDEX, made_by="shard")
    around = params.read(layout.PARAMS, ["cluster", "tracking"])
    write_plan(task, index)
    root = run_root(around["cluster"])
    tracker = open_tracker(task, index, around["tracking"], root, parent_run_id)
    place = Place(0, 1, "cuda:0" if torch.cuda.is_available() else "cpu")
    status = "KILLED"
    try:
        train_rank(task, place, partial(_open_reporting, task, f"val/{index.score_name}", scores, tracker))
        status = "FINISHED" if is_done(task.run) else "KILLED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        tracker.pump(next(iter(committed(task.run)), 0))
        tracker.finish(status, DRAIN_SECONDS[status], end_tags(task.run))
    if status == "KILLED":
        raise TrainingError(
            f"The trial {task.fingerprint} was stopped by {task.run.stop} and came to no result; run the same sweep "
            "again to go on with it."
        )


def _open_reporting(
    task: "Task", figure: str, scores: Scores, tracker: "Tracker", path: Path, position: int
) -> "_Reporting":
    """Rank 0's sink; the epochs before `position` are told first, for the search knows nothing of an earlier start."""
    from pipeline.tracking import spool

    sink = open_sink(task, path, position)
    where = spool.Position()
    while lines := (found := spool.read(path, where, position))[0]:
        where = found[1]
        for line in lines:
            if figure in line.metrics:
                scores.tell(line.epoch, line.metrics[figure])
    return _Reporting(sink, figure, scores, tracker, task)


class _Reporting:
    """A sink that also tells the search how good an epoch was."""

    def __init__(self, sink: "WithMachine", figure: str, scores: Scores, tracker: "Tracker", task: "Task"):
        self._sink, self._figure, self._scores, self._tracker, self._task = sink, figure, scores, tracker, task

    def append(self, step: int, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        self._sink.append(step, metrics, epoch=epoch)
        if self._figure in metrics:
            self._tracker.pump(next(iter(committed(self._task.run)), 0))
            self._scores.tell(epoch, metrics[self._figure])

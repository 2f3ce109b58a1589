"""A training run's page in MLflow: opened with what it is trained on, ended with how that went."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Index
from pipeline.stages import origin
from pipeline.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.tracking.machine import WithMachine
    from pipeline.tracking.mlflow import Tracker
    from pipeline.training.folder import RunFolder
    from pipeline.training.task import Task

DRAIN_SECONDS = {"FINISHED": 60.0, "FAILED": 20.0, "KILLED": 5.0}
"""How long a run's end waits for a slow MLflow server before it says `not yet published`. Who was told to end has
seconds to live."""


def open_tracker(
    task: "Task", index: Index, tracking: params.Tracking, root: Path, parent_run_id: str | None = None
) -> "Tracker":
    """The run's tracker; its page lies under that of `parent_run_id`."""
    from pipeline.tracking import address, mlflow
    from pipeline.tracking.run import Dataset

    origin.leave_difference(task.run.files)
    parent = {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
    sections = {
        name: getattr(task, name)
        for name in ("loading", "augment", "model", "transfer", "optimizer", "schedule", "training")
    }
    flat = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.model_dump().items()}
    return mlflow.open_run(
        address.resolve(tracking.uri, root),
        tracking.experiment,
        task.run.path,
        name=task.fingerprint,
        params=flat,
        tags={"fingerprint": task.fingerprint, "index_digest": index.digest, **origin.tags(), **parent},
        dataset=Dataset(
            name=f"{counted(len(index.classes), 'class')}, {counted(index.num_samples('train'), 'image')}",
            digest=index.digest,
            class_counts=dict(zip(index.classes, index.class_counts("train"), strict=True)),
        ),
    )


def open_sink(task: "Task", path: Path, position: int) -> "WithMachine":
    """Rank 0's spool, cut back to a position."""
    from pipeline.tracking import spool
    from pipeline.tracking.machine import WithMachine

    spool.truncate_after(path, position)
    return WithMachine(spool.Spool(path), task.run.path)


def finish(tracker: "Tracker", status: str, run: "RunFolder", console: "Console") -> None:
    """Tells MLflow how the run ended, and the person when MLflow could not be told."""
    tracker.pump(next(iter(committed(run)), 0))
    # A store that was never reached is not waited for: it has been tried all through the training.
    drain_seconds = DRAIN_SECONDS["KILLED" if tracker.run_id is None else status]
    if not tracker.finish(status, drain_seconds, end_tags(run)):
        state = "trained, not yet published" if status == "FINISHED" else f"{status.lower()}, not yet published"
        console.print(
            f"{state}: {tracker.problem} The metrics wait in {run.path}; `convoy track sync` sends them.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def end_tags(run: "RunFolder") -> dict[str, str]:
    """How the run's training ended; nothing of a run that did not come to its end."""
    from pipeline.training.folder import Result

    if not run.result.exists():
        return {}
    result = Result.read(run.result, made_by="train")
    return {"ending": result.ending, "exported_epoch": str(result.exported_epoch)}


def committed(run: "RunFolder") -> list[int]:
    """Steps that no restart will take back, newest first: the last of a run that is over, the positions of another's
    checkpoints. Raises ArtifactError for a result that cannot be read."""
    from pipeline.training import checkpoint
    from pipeline.training.folder import Result

    if run.result.exists():  # its checkpoints may have been removed to save the space
        return [Result.read(run.result, made_by="train").num_steps]
    return checkpoint.positions(run.checkpoints)

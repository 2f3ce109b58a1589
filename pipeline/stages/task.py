"""What params.yaml and the shards say is to be trained: checked, its starting weights found, and named."""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Index, file_sha256
from pipeline.errors import ClusterError, ParamsError
from pipeline.stages import layout, weights
from pipeline.stages.home import home

if TYPE_CHECKING:
    from pipeline.training.folder import Result, RunFolder
    from pipeline.training.task import Task


def describe(
    index: Index,
    loading: params.Loading,
    augment: params.Augment,
    model: params.Model,
    transfer: params.Transfer,
    optimizer: params.Optimizer,
    schedule: params.Schedule,
    training: params.Training,
    cluster: params.Cluster,
    tracking: params.Tracking,
) -> "Task":
    """The task; its run's folder need not be there yet. Raises ConvoyError for what no training could begin with."""
    from pipeline.loading.augment import Augmentation
    from pipeline.loading.augment import check as check_augment
    from pipeline.modeling import backbone
    from pipeline.training.folder import RunFolder, fingerprint
    from pipeline.training.plan import settled
    from pipeline.training.task import Task
    from pipeline.training.writer import PATIENCE_SECONDS

    _check_patience(training, index)
    backbone.check(model.backbone, model.input_px, model.options, index.num_channels)
    backbone.check_sides(
        model.backbone,
        sorted(set(training.progressive_px or ())),
        input_px=model.input_px,
        options=model.options,
        num_channels=index.num_channels,
    )
    _check_labels(training, index)
    check_augment(Augmentation(**augment.of_one_image()), index.num_channels, index.pixel_dtype)
    root = run_root(cluster)
    start = weights.find(model, index.num_channels, tracking, root)
    loading = settled(loading, index)
    deciding = params.for_fingerprint(loading, augment, model, transfer, optimizer, schedule, training)
    name = fingerprint(deciding, index.digest, start.digest if start else "none")
    run = RunFolder(root / "runs" / name)
    sections = (loading, augment, model, optimizer, schedule, training)
    # A rank that was cut off from the others notices so when a step of theirs has not come for so long.
    handover_seconds = max(PATIENCE_SECONDS, cluster.hang_seconds)
    return Task(run, layout.INDEX.absolute(), name, *sections, start, transfer, handover_seconds)


def _check_patience(training: params.Training, index: Index) -> None:
    if training.patience_epochs is not None and not index.num_samples("validation"):
        raise ParamsError(
            f"training.patience_epochs={training.patience_epochs} waits for a gain on the validation split, and "
            f"{layout.INDEX} has no validation samples; set split.validation_fraction over 0 and run `convoy shard` "
            "again, or set patience_epochs to null."
        )


def _check_labels(training: params.Training, index: Index) -> None:
    """Raises ParamsError for what cannot be trained, or not be validated, on a multi-label set."""
    from pipeline.modeling import objective

    objective.check(training.loss, training.balance, index.multi_label)
    num_samples = index.num_samples("validation")
    if index.multi_label and num_samples and not any(index.class_counts("validation")):
        raise ParamsError(
            f"None of the {num_samples} validation samples of {layout.INDEX} has a class, so validation mAP is not "
            "defined; raise split.validation_fraction, or set it to 0 to train without validation."
        )


def run_root(cluster: params.Cluster) -> Path:
    """Where runs and, by default, the MLflow store lie."""
    if cluster.storage is None:
        return home()
    if "://" in cluster.storage:
        raise ClusterError(
            f"cluster.storage={cluster.storage} is a URI; runs need a folder that every node sees, such as a mounted "
            "bucket or NFS. Give its absolute path."
        )
    return home() / cluster.storage


def sections_of_task() -> list[str]:
    """The sections of params.yaml that `describe` asks for."""
    return list(inspect.signature(describe).parameters)[1:]


def write_plan(task: "Task", index: Index) -> None:
    partial = task.run.plan.with_name(".plan.partial")
    task.plan(index.digest).write(partial)
    partial.replace(task.run.plan)


def is_done(run: "RunFolder") -> bool:
    if not run.result.exists():
        return False
    return run.weights.exists() and file_sha256(run.weights) == read_result(run).weights_sha256


def read_result(run: "RunFolder") -> "Result":
    from pipeline.training.folder import Result

    return Result.read(run.result, made_by="train")

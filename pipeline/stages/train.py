"""train: data/shards -> data/model, data/run.json, data/history.csv. The same inputs again resume, or are done."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import HISTORY_COLUMNS, SCORES, Index, Run
from pipeline.stages import layout
from pipeline.stages.interrupt import stopping_gently
from pipeline.stages.publish import lock, publishing
from pipeline.stages.task import describe, is_done, read_result, run_root, write_plan
from pipeline.stages.tracked import committed, finish, open_sink, open_tracker

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.tracking.mlflow import Tracker
    from pipeline.training.folder import Result
    from pipeline.training.task import Task


def train(
    loading: params.Loading,
    augment: params.Augment,
    model: params.Model,
    transfer: params.Transfer,
    optimizer: params.Optimizer,
    schedule: params.Schedule,
    training: params.Training,
    cluster: params.Cluster,
    tracking: params.Tracking,
) -> None:
    from rich.console import Console

    from pipeline.tracking import address
    from pipeline.tracking.run import is_finished_in

    with publishing(layout.MODEL, layout.RUN, layout.HISTORY) as (model_folder, run_path, history_path):
        index = Index.read(layout.INDEX, made_by="shard")
        task = describe(index, loading, augment, model, transfer, optimizer, schedule, training, cluster, tracking)
        root, run = run_root(cluster), task.run
        store = address.strip_credentials(address.resolve(tracking.uri, root))
        run.path.mkdir(parents=True, exist_ok=True)
        console = Console()
        with lock(run.path / ".lock"):
            write_plan(task, index)
            if not is_done(run):
                _run_to_the_end(task, index, cluster, partial(open_tracker, task, index, tracking, root), console)
            elif not is_finished_in(run.path, store, tracking.experiment):
                finish(open_tracker(task, index, tracking, root), "FINISHED", run, console)
            result = read_result(run)
            _export(task, index, model_folder)
            _describe(task, index, result, store).write(run_path)
            _write_history(result, history_path)
    score = result.validation.get(index.score_name)
    console.print(
        f"run {task.fingerprint}: {result.ending}; {result.num_steps} steps at {result.images_per_second:,.0f} images/s"
        + (f", validation {SCORES[index.score_name]} {score:.4f}" if score is not None else "")
        + f" -> {layout.MODEL}",
        highlight=False,
        soft_wrap=True,
    )


def train_one_rank(task: "Task", rank: int, world_size: int, device: str) -> None:
    """The body that a launcher starts; a module's function, so that it can be sent to another process."""
    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    train_rank(task, Place(rank, world_size, device), partial(open_sink, task))


def _run_to_the_end(
    task: "Task", index: Index, cluster: params.Cluster, open_page: Callable[[], "Tracker"], console: "Console"
) -> None:
    from pipeline.launch import local
    from pipeline.launch import ray as ray_launch
    from pipeline.loading.order import num_steps_per_epoch
    from pipeline.loading.subset import subset_counts
    from pipeline.tracking.watch import Watch

    kept = subset_counts(index.splits["train"], task.loading.subset_fraction, multi_label=index.multi_label)
    steps_per_epoch = num_steps_per_epoch(sum(map(sum, kept)), task.loading.global_batch_size, task.loading.lanes)
    tracker = open_page()  # not before: what is refused leaves no page
    watch = Watch(
        task.run.spool,
        task.run.notices,
        num_steps=task.training.epochs * steps_per_epoch,
        num_epochs=task.training.epochs,
        patience_epochs=task.training.patience_epochs,
        has_validation=index.num_samples("validation") > 0,
        committed=lambda: next(iter(committed(task.run)), 0),
        on_committed=tracker.pump,
        console=console,
    )
    body = partial(train_one_rank, task)
    status = "KILLED"
    try:
        with watch, stopping_gently(task.run.stop, watch.say) as stop:
            if cluster.num_workers == 0:
                local.launch(body)
            else:
                ray_launch.launch(
                    body,
                    address=cluster.address,
                    worlds=params.worlds(cluster, task.loading, task.augment, task.training),
                    max_failures=cluster.max_failures,
                    hang_seconds=cluster.hang_seconds,
                    wait_seconds=cluster.wait_seconds,
                    folder=task.run.path / "ray",
                    say=watch.say,
                    pause=stop,
                )
            if not task.run.result.exists():
                stop.end_if_asked()
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        finish(tracker, status, task.run, console)


def _export(task: "Task", index: Index, folder: Path) -> None:
    import safetensors.torch

    from pipeline.registry import export
    from pipeline.training.network import build_network

    network = build_network(task, index, is_fresh=False)
    network.load_state_dict(safetensors.torch.load_file(task.run.weights))
    export.write(
        folder,
        network,
        backbone=task.model.backbone,
        classes=index.classes,
        input_px=task.model.input_px,
        num_channels=index.num_channels,
        pixel_dtype=index.pixel_dtype,
        mean=index.mean,
        std=index.std,
        thresholds=read_result(task.run).thresholds if index.multi_label else None,
        mirror=task.model.mirror,
    )


def _describe(task: "Task", index: Index, result: "Result", store: str) -> Run:
    from pipeline.tracking.run import RUN_FILE, RunRecord

    record = RunRecord.read(task.run.path / RUN_FILE)
    return Run(
        fingerprint=task.fingerprint,
        run_id=record.run_id if record else None,
        tracking_uri=store,
        index_digest=index.digest,
        backbone=task.model.backbone,
        num_parameters=result.num_parameters,
        num_steps=result.num_steps,
        num_epochs=result.num_epochs,
        exported_epoch=result.exported_epoch,
        ending=result.ending,
        world_size=result.world_size,
        attempts=result.attempts,
        train_seconds=result.train_seconds,
        images_per_second=result.images_per_second,
        validation=result.validation,
    )


def _write_history(result: "Result", path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.history)

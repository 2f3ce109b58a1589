"""`convoy plan`: what the run that params.yaml describes will take, before anything is held; nothing is kept.

What training would refuse at its start is refused here with the same words.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Index
from pipeline.stages import layout
from pipeline.wording import counted, size_text, time_text

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.loading.order import Steps
    from pipeline.loading.read import SplitReader
    from pipeline.training.task import Task
    from pipeline.training.trial import Trial


def plan(as_json: bool) -> None:
    """Prints figures as a table, or as one JSON object with bytes, seconds and counts."""
    import contextlib

    from rich.console import Console

    from pipeline.loading.read import SplitReader
    from pipeline.stages.task import describe, sections_of_task

    sections = params.read(layout.PARAMS, sections_of_task())
    task = describe(Index.read(layout.INDEX, made_by="shard"), **sections)
    loading, cluster = task.loading, sections["cluster"]
    _check_cluster(cluster, params.worlds(cluster, loading, task.augment, task.training))
    with contextlib.closing(
        SplitReader(task.index_path, "train", loading.cache_bytes, loading.subset_fraction)
    ) as reader:
        figures = _figures(task, cluster, reader)
    if as_json:
        print(json.dumps(figures))
    else:
        Console(highlight=False).print(_table(figures))


def _check_cluster(cluster: params.Cluster, worlds: list[int]) -> None:
    """Raises ClusterError for what the launcher would refuse; what a cluster that answers has, only it knows."""
    from pipeline.launch.cluster import Node, look_for, no_room, room_for, to_join

    if not cluster.num_workers:
        return
    joined, here = to_join(cluster.address), [Node(len(os.sched_getaffinity(0)))]
    if joined:
        look_for(joined)
    elif room_for(worlds[-1], here) is None:
        raise no_room(worlds, here)


def _figures(task: "Task", cluster: params.Cluster, reader: "SplitReader") -> dict:
    import torch

    from pipeline.loading.ahead import check_cache
    from pipeline.training import checkpoint
    from pipeline.training.trial import Trial

    loading, num_ranks = task.loading, cluster.most_ranks
    steps = task.plan(reader.index.digest).epoch(0, reader)
    if reader.shelf.is_remote:
        check_cache(steps, reader.shards, loading.cache_bytes, num_ranks)
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // (num_ranks if cluster.address is None else 1)))
    trial = Trial(task, reader)
    num_steps = steps.num_steps * task.training.epochs
    num_done = next(iter(checkpoint.positions(task.run.checkpoints)), 0)
    return {
        "fingerprint": task.fingerprint,
        "num_steps_done": num_done,
        "num_samples": reader.num_samples,
        "num_validation_samples": reader.index.num_samples("validation"),
        "epochs": task.training.epochs,
        "patience_epochs": task.training.patience_epochs,
        "steps_per_epoch": steps.num_steps,
        "num_steps": num_steps,
        "samples_left_out_per_epoch": reader.num_samples - steps.num_steps * loading.global_batch_size,
        "num_ranks": num_ranks,
        "batch_size_per_rank": loading.global_batch_size // num_ranks,
        **_shards(steps, reader, num_ranks),
        **_measured(task, cluster, trial, num_steps=num_steps, num_done=num_done),
    }


def _shards(steps: "Steps", reader: "SplitReader", num_ranks: int) -> dict:
    from pipeline.loading.order import Order
    from pipeline.training import forecast

    lanes = ranks = [len(reader.shards)]
    if isinstance(steps, Order):
        lanes, ranks = forecast.shards_per_lane(steps), forecast.shards_per_rank(steps, num_ranks)
    return {
        "num_shards": len(reader.shards),
        "shards_per_lane": [int(min(lanes)), int(max(lanes))],
        "shards_per_rank": [int(min(ranks)), int(max(ranks))],
        "shard_bytes": sum(shard.num_bytes for shard in reader.shards),
    }


def _measured(task: "Task", cluster: params.Cluster, trial: "Trial", *, num_steps: int, num_done: int) -> dict:
    """What a few real steps say, and what follows from it."""
    from pipeline.training import forecast, rehearsal
    from pipeline.training.batch_sizes import free_bytes
    from pipeline.training.sides import areas, largest_px

    num_ranks, price = cluster.most_ranks, cluster.price_per_gpu_hour
    num_left, steps_per_epoch = num_steps - num_done, num_steps // task.training.epochs
    num_parts = num_ranks if task.training.strategy == "fsdp2" else 1
    per_rank = task.loading.global_batch_size // num_ranks
    free = free_bytes(trial.device)
    rates, kept_bytes = rehearsal.rehearse(trial, num_ranks)
    memory = forecast.memory(
        trial.network,
        optimizer=task.optimizer.name,
        momentum=task.optimizer.momentum,
        with_average=task.training.ema_decay > 0,
        activations_bytes=kept_bytes // task.training.accumulate_steps,  # those of a piece at a time
        batch_bytes=per_rank * trial.image_bytes,
        num_parts=num_parts,
    )
    seconds = forecast.run_seconds(
        rates,
        steps=num_left,
        batch_size_per_rank=per_rank,
        validations=-(-num_left // steps_per_epoch),
        validation_images=-(-trial.num_validation_samples // num_ranks),
        areas=areas(num_done // steps_per_epoch, task.model, task.training) or [1.0],
        validation_area=(task.model.input_px / largest_px(task.model, task.training)) ** 2 * (1 + task.model.mirror),
    )
    return {
        "num_parameters": sum(parameter.numel() for parameter in trial.network.parameters()),
        "memory_bytes": vars(memory) | {"total": memory.total},
        "free_memory_bytes": free,
        "run_folder_bytes": forecast.checkpoints_bytes(
            memory,
            task.training.keep_checkpoints,
            num_parts=num_parts,
            with_best=task.training.patience_epochs is not None,
        ),
        "free_disk_bytes": shutil.disk_usage(_existing(task.run.path)).free,
        "device": str(trial.device),
        "loader_images_per_second": per_rank / rates.loader_seconds,
        "step_images_per_second": per_rank / rates.step_seconds,
        "together_images_per_second": per_rank / rates.together_seconds,
        "seconds_to_the_end": seconds,
        "cost": None if price is None else forecast.cost(seconds, num_ranks, price),
    }


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _table(figures: dict) -> "Table":
    from rich.table import Table

    table = Table("what", "figure", "of which", title=f"run {figures['fingerprint']}", title_justify="left")
    for row in _rows(figures):
        table.add_row(*row)
    return table


def _rows(figures: dict) -> list[tuple[str, str, str]]:
    memory, epochs = figures["memory_bytes"], counted(figures["epochs"], "epoch")
    parts = ", ".join(f"{name} {size_text(value)}" for name, value in memory.items() if value and name != "total")
    rows = [
        (
            "steps",
            f"{figures['num_steps']:,}",
            f"{epochs} of {figures['steps_per_epoch']:,}; {figures['num_steps_done']:,} done",
        ),
        (
            "samples an epoch",
            f"{figures['num_samples'] - figures['samples_left_out_per_epoch']:,}",
            f"of {figures['num_samples']:,}; {figures['num_validation_samples']:,} to validate with",
        ),
        ("samples a step", f"{figures['batch_size_per_rank'] * figures['num_ranks']:,}", _ranks(figures)),
        (
            "shards to train on",
            f"{figures['num_shards']:,}, {size_text(figures['shard_bytes'])}",
            f"{_span(figures['shards_per_lane'])} a lane, {_span(figures['shards_per_rank'])} a rank",
        ),
        (
            "memory of a rank",
            size_text(memory["total"]),
            f"{parts}; beside its process, a gigabyte or so; {size_text(figures['free_memory_bytes'])} free here",
        ),
        (
            "disk of the run",
            size_text(figures["run_folder_bytes"]),
            f"{size_text(figures['free_disk_bytes'])} free here",
        ),
        (
            "images/s of a rank",
            f"{figures['together_images_per_second']:,.0f}",
            _rates(figures),
        ),
        (
            "time to the end",
            time_text(figures["seconds_to_the_end"]),
            "with validation, without exchange between ranks"
            + ("; at most: training.patience_epochs may end it before" if figures["patience_epochs"] else ""),
        ),
    ]
    if figures["cost"] is not None:
        rows.append(("cost", f"{figures['cost']:,.2f}", f"{_ranks(figures)}, at cluster.price_per_gpu_hour"))
    return rows


def _rates(figures: dict) -> str:
    alone = {name: figures[f"{name}_images_per_second"] for name in ("loader", "step")}
    slower = "loader" if alone["loader"] < alone["step"] else "network"
    rates = f"loader alone {alone['loader']:,.0f}, steps alone {alone['step']:,.0f} on {figures['device']}"
    return f"{rates}: the {slower} is the slower one"


def _ranks(figures: dict) -> str:
    return f"{counted(figures['num_ranks'], 'rank')} of {figures['batch_size_per_rank']:,}"


def _span(ends: list[int]) -> str:
    return f"{ends[0]:,}" if ends[0] == ends[1] else f"{ends[0]:,} to {ends[1]:,}"

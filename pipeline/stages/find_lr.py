"""`convoy find-lr`: a learning-rate range test of the run that params.yaml describes; it trains and keeps nothing."""

import json
import math
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ParamsError
from pipeline.stages import layout

if TYPE_CHECKING:
    from pipeline.training.lr_range import Finding, Tried

CHART_COLUMNS, CHART_ROWS = 60, 12


def find_lr(lowest: float, highest: float, num_steps: int, as_json: bool) -> None:
    """Prints the loss at each rate as a chart, or as JSON, and the rate that it suggests."""
    import contextlib

    from pipeline.loading.read import SplitReader
    from pipeline.stages.task import describe, sections_of_task
    from pipeline.training import lr_range
    from pipeline.training.trial import Trial

    if not 0.0 < lowest < highest:
        raise ParamsError(f"--lowest {lowest:g} and --highest {highest:g} must be rates over 0, in this order.")
    sections = params.read(layout.PARAMS, sections_of_task())
    task = describe(Index.read(layout.INDEX, made_by="shard"), **sections)
    with contextlib.closing(
        SplitReader(task.index_path, "train", task.loading.cache_bytes, task.loading.subset_fraction)
    ) as reader:
        trial = Trial(task, reader)
        with contextlib.closing(trial.batches()) as batches:
            climbing = lr_range.climb(
                lambda lr: trial.step(next(batches), lr), lowest=lowest, highest=highest, num_steps=num_steps
            )
            tried = list(climbing)
    finding = lr_range.judge(tried)
    if as_json:
        found = vars(finding) if finding else None
        print(json.dumps({"finding": found, "tried": [vars(each) for each in tried]}))
        return
    print("\n".join(chart(tried, finding)))
    if finding is None:
        print(
            "The loss never fell, or no loss was finite: give another --lowest, or look at the data with "
            "`convoy browse`."
        )
        return
    is_open = finding.lowest == tried[-1].lr
    print(
        f"The loss falls fastest at {finding.steepest:.2g} and is lowest at {finding.lowest:.2g}"
        + (", the highest rate of all: none was too high, so that the lowest says little.\n" if is_open else ".\n")
        + f"Try optimizer.lr: {finding.suggested:.2g} (now {task.optimizer.lr:g})."
    )


def chart(tried: "list[Tried]", finding: "Finding | None") -> list[str]:
    """The smoothed loss over the rate, both axes named; a line of dots where the suggested rate lies."""
    if not tried:
        return []
    # What diverged would press the rest flat.
    first, least = tried[0].smoothed, min(each.smoothed for each in tried)
    top = max(first, least) + 0.25 * (first - least) or 1.0
    span = max(top - least, 1e-12)
    start, end = math.log(tried[0].lr), math.log(tried[-1].lr)
    rows = [[" "] * CHART_COLUMNS for _ in range(CHART_ROWS)]

    def column(lr: float) -> int:
        return round((math.log(lr) - start) / max(end - start, 1e-12) * (CHART_COLUMNS - 1))

    if finding and start <= math.log(finding.suggested) <= end:
        for row in rows:
            row[column(finding.suggested)] = "┊"
    for each in tried:
        height = min(1.0, (each.smoothed - least) / span)
        rows[round((1.0 - height) * (CHART_ROWS - 1))][column(each.lr)] = "●"
    labels = {0: f"{top:.3f}", CHART_ROWS - 1: f"{least:.3f}"}
    lines = [f"{labels.get(number, ''):>8} │{''.join(row).rstrip()}" for number, row in enumerate(rows)]
    left, right = f"{tried[0].lr:.1g}", f"{tried[-1].lr:.1g}"
    name = "learning rate".center(CHART_COLUMNS - len(left) - len(right))
    return ["    loss", *lines, f"{'':>8} └{'─' * CHART_COLUMNS}", f"{'':>10}{left}{name}{right}"]

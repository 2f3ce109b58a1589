"""`convoy tune-batch`: training steps of the run that params.yaml describes, at rising batch sizes; keeps nothing."""

import json

from pipeline import params
from pipeline.artifacts import Index
from pipeline.stages import layout
from pipeline.wording import counted

SMALLEST = 8


def tune_batch(largest: int, as_json: bool) -> None:
    """Prints images a second and memory at each size, and the smallest size that is nearly as fast as any."""
    import contextlib

    from rich.console import Console

    from pipeline.loading.read import SplitReader
    from pipeline.stages.task import describe, sections_of_task
    from pipeline.training import batch_sizes
    from pipeline.training.trial import Trial

    sections = params.read(layout.PARAMS, sections_of_task())
    task = describe(Index.read(layout.INDEX, made_by="shard"), **sections)
    num_ranks = sections["cluster"].most_ranks
    sizes = [SMALLEST * 2**power for power in range(32) if SMALLEST * 2**power <= largest]
    console = Console(highlight=False)
    with contextlib.closing(
        SplitReader(task.index_path, "train", task.loading.cache_bytes, task.loading.subset_fraction)
    ) as reader:
        trial = Trial(task, reader)
        measured = []
        if not as_json:
            console.print(f"{'per rank':>9} {'images/s':>10} {'memory':>10}", style="bold")
        for each in batch_sizes.measure(trial, sizes, batch_sizes.free_bytes(trial.device)):
            measured.append(each)
            if not as_json:
                gigabytes = each.peak_bytes / 1e9
                console.print(f"{each.batch_size_per_rank:>9} {each.images_per_second:>10,.0f} {gigabytes:>7.2f} GB")
    chosen = batch_sizes.choose(measured)
    if as_json:
        print(json.dumps({"chosen": vars(chosen), "measured": [vars(each) for each in measured]}))
        return
    console.print(
        f"{chosen.batch_size_per_rank} per rank is within 5 % of the fastest. Try loading.global_batch_size: "
        f"{chosen.batch_size_per_rank * num_ranks} (now {task.loading.global_batch_size}, "
        f"{counted(num_ranks, 'rank')}); a larger batch wants a higher rate: convoy find-lr.",
        soft_wrap=True,
    )

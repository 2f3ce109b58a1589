"""`convoy order`: which samples a rank uses in which step, as JSON lines; reads the index and its tables, no image."""

import json
from collections.abc import Iterator

from pipeline import params
from pipeline.errors import ParamsError
from pipeline.stages import layout


def order(split: str, epoch: int, world_size: int, rank: int, from_step: int, num_steps: int | None) -> None:
    """A line a step: its place in the epoch, the position that ledgers and checkpoints call it by, and sample keys."""
    import contextlib

    from pipeline.loading.read import SplitReader

    read = params.read(layout.PARAMS, ["loading", "training"])
    _check(read["loading"].global_batch_size, world_size, rank)
    fraction = read["loading"].subset_fraction if split == "train" else 1.0
    with contextlib.closing(SplitReader(layout.INDEX, split, read["loading"].cache_bytes, fraction)) as reader:
        slices = _training if split == "train" else _evaluation
        for done, (step, position, numbers) in enumerate(
            slices(reader, read["loading"], read["training"].seed, epoch, world_size, rank, from_step)
        ):
            if done == num_steps:
                break
            keys = reader.locate(numbers)[1]["key"].tolist()
            print(json.dumps({"epoch": epoch, "step": step, "position": position, "rank": rank, "keys": keys}))


def _training(reader, loading, seed, epoch, world_size, rank, from_step) -> Iterator[tuple]:
    from pipeline.training.plan import Plan, settled

    loading = settled(loading, reader.index)
    plan = Plan(index_digest=reader.index.digest, seed=seed, num_epochs=epoch + 1, loading=loading)
    steps = plan.epoch(epoch, reader)
    if from_step >= steps.num_steps:
        raise ParamsError(
            f"--from-step {from_step} is past the epoch's end; its {steps.num_steps} steps are counted from 0."
        )
    for step in range(from_step, steps.num_steps):
        yield step, epoch * steps.num_steps + step, steps.rank_step(step, rank, world_size)


def _evaluation(reader, loading, _seed, _epoch, world_size, rank, from_step) -> Iterator[tuple]:
    """Every sample once, in the index's order, without the padding; an evaluation has no position."""
    from pipeline.loading.order import evaluation_steps

    batches = evaluation_steps(reader.num_samples, loading.global_batch_size // world_size, rank, world_size)
    for step, (numbers, mask) in enumerate(batches):
        if step >= from_step:
            yield step, None, numbers[mask]


def _check(global_batch_size: int, world_size: int, rank: int) -> None:
    if global_batch_size % world_size:
        raise ParamsError(
            f"loading.global_batch_size={global_batch_size} is not divisible by --world-size {world_size}; "
            "give a divisor of it."
        )
    if not rank < world_size:
        raise ParamsError(f"--rank {rank} is not in a world of {world_size}; ranks are counted from 0.")

"""Holds a run's ledger against its plan: the committed steps have exactly the plan's samples, each step once."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.loading.order import Steps
from pipeline.loading.read import SplitReader
from pipeline.training import checkpoint, ledger
from pipeline.training.folder import Result, RunFolder
from pipeline.training.ledger import Entry, samples_digest
from pipeline.training.plan import Plan


@dataclass(frozen=True)
class Proof:
    """What a ledger that agrees with its plan says."""

    num_steps: int
    """Committed and checked."""
    num_steps_planned: int
    num_samples: int
    num_attempts: int
    ending: str | None
    """Why training ended where it did; None for a run that goes on."""
    with_keys: bool
    """Whether the keys themselves were compared, not only their digests."""


def check(run: RunFolder, index_path: Path, cache_bytes: int | None = None) -> Proof:
    """Compares every committed step with what the run's plan takes from the training split of this index.

    Committed is what the newest whole checkpoint, or the result, is made of. Raises ArtifactError naming the first
    step that is wrong, and where there is nothing to compare.
    """
    plan = Plan.read(run.plan, made_by="train")
    with contextlib.closing(SplitReader(index_path, "train", cache_bytes, plan.loading.subset_fraction)) as reader:
        return _check(run, plan, reader)


def _check(run: RunFolder, plan: Plan, reader: SplitReader) -> Proof:
    if plan.index_digest != reader.index.digest:
        raise ArtifactError(
            f"{run.path} was trained on the shards {plan.index_digest[:12]}, and {reader.index_path} lists "
            f"{reader.index.digest[:12]}; check it where its own shards are (`dvc checkout`)."
        )
    steps_per_epoch = plan.steps_per_epoch(reader.shard_sizes)
    num_committed = _num_committed(run)
    entries = {entry.step: entry for entry in ledger.read(run.ledger)}
    num_samples = 0
    for step in range(num_committed):
        epoch, step_of_epoch = divmod(step, steps_per_epoch)
        if step_of_epoch == 0:
            steps = plan.epoch(epoch, reader)
        where = f"step {step} (step {step_of_epoch} of epoch {epoch + 1})"
        num_samples += _compare(entries.get(step), steps, step_of_epoch, reader, f"{run.ledger}: {where}")
    return Proof(
        num_steps=num_committed,
        num_steps_planned=plan.num_epochs * steps_per_epoch,
        num_samples=num_samples,
        ending=Result.read(run.result, made_by="train").ending if run.result.exists() else None,
        num_attempts=ledger.next_attempt(run.ledger) - 1,
        with_keys=all(entry.keys is not None for entry in entries.values()),
    )


def _num_committed(run: RunFolder) -> int:
    if run.result.exists():
        return Result.read(run.result, made_by="train").num_steps
    return checkpoint.newest_whole(run.checkpoints) or 0


def _compare(entry: Entry | None, steps: Steps, step: int, reader: SplitReader, where: str) -> int:
    """The number of samples of a step that agrees with its plan."""
    if entry is None:
        raise ArtifactError(f"{where} is not in the ledger, and later ones are committed; nothing vouches for it.")
    _, rows = reader.locate(steps.step(step))
    planned = rows["key"]
    if entry.num_samples != len(planned):
        raise ArtifactError(f"{where} was trained on {entry.num_samples} samples; the plan has {len(planned)}.")
    if entry.samples_digest != samples_digest(planned):
        raise ArtifactError(f"{where} was trained on other samples than the plan's{_differing(entry, planned)}.")
    if entry.keys is not None and sorted(entry.keys) != sorted(planned.tolist()):
        raise ArtifactError(f"{where} lists other keys than its digest stands for{_differing(entry, planned)}.")
    return entry.num_samples


def _differing(entry: Entry, planned) -> str:
    if entry.keys is None:
        return "; train with training.ledger: full to see which"
    used, wanted = Counter(entry.keys), Counter(planned.tolist())  # a balanced step may have a sample twice
    extra, lacking = (sorted(each.elements())[:5] for each in (used - wanted, wanted - used))
    return f": {extra} instead of {lacking}" if extra else ""

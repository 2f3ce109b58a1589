"""What holds a run up, from where its ranks spent their time, in words that say what to turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BOUND_FRACTION = 0.1
"""A run that stands still for less than this is bound by its computing: nothing else is worth turning first."""

WORSE_FRACTION = 0.2
"""Of the steps' time: what holds a run up is told again once it takes so much more than it did at its best since."""

MOST_OF_WORK = 0.5
"""Of the loader's work, what makes one kind of it the one to name."""


@dataclass(frozen=True)
class Spent:
    """Seconds of one rank."""

    wait: float = 0.0
    transfer: float = 0.0
    compute: float = 0.0
    read: float = 0.0
    """By the loader's threads, side by side with the step and with each other; so are the next two."""
    decode: float = 0.0
    augment: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(*(mine + its for mine, its in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[float, ...]:
        return (self.wait, self.transfer, self.compute, self.read, self.decode, self.augment)

    @property
    def step(self) -> float:
        return max(self.wait + self.transfer + self.compute, 1e-9)


@dataclass(frozen=True)
class Verdict:
    bound: Literal["loader", "transfer", "compute"]
    fraction: float
    """Of the time of steps."""
    text: str

    def is_news_after(self, known: "Verdict") -> bool:
        """Whether something else holds the run up than is `known`, or the same much more."""
        is_worse = self.bound != "compute" and self.fraction >= known.fraction + WORSE_FRACTION
        return self.bound != known.bound or is_worse


def judge(spent: Sequence[Spent], *, workers_per_rank: int, num_cores: int) -> Verdict:
    """By rank, over an epoch. The rank that waits the most decides: at each step the others wait for it.

    `num_cores` are those that a rank has.
    """
    rank = max(range(len(spent)), key=lambda rank: spent[rank].wait / spent[rank].step)
    slowest = spent[rank]
    whose = f" (rank {rank})" if len(spent) > 1 else ""
    wait, transfer = slowest.wait / slowest.step, slowest.transfer / slowest.step
    if wait >= max(BOUND_FRACTION, transfer):
        text = f"loader-bound {wait:.0%}{whose}: {_remedy(slowest, workers_per_rank, num_cores)}"
        return Verdict("loader", wait, text)
    if transfer >= BOUND_FRACTION:
        text = f"transfer-bound {transfer:.0%}{whose}: lower model.input_px, or give the GPU a faster way to the memory"
        return Verdict("transfer", transfer, text)
    compute = slowest.compute / slowest.step
    return Verdict("compute", compute, f"compute-bound {compute:.0%}: the loader keeps up")


def _remedy(spent: Spent, workers_per_rank: int, num_cores: int) -> str:
    work = max(spent.read + spent.decode + spent.augment, 1e-9)
    if spent.read > MOST_OF_WORK * work:
        return "its threads mostly read: use a faster disk or store, or raise loading.cache_bytes"
    lighter = "lower shards.short_side_px"
    if spent.augment > MOST_OF_WORK * work:
        lighter = "choose a lighter augment.policy"
    if workers_per_rank < num_cores:
        return f"raise loading.workers_per_rank or {lighter}"
    return f"{lighter}, or give each rank more than {num_cores} cores: workers use all of them"

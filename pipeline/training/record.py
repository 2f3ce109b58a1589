"""What a run says about itself while it trains: log points, history rows, rates. Rank 0's also goes to the spool.

Log points are a function of the position alone, so that attempts and ranks agree on them.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.artifacts import SCORES
from pipeline.loading.assembly import Work
from pipeline.training import patience
from pipeline.training.bottleneck import Spent, Verdict
from pipeline.training.phases import PHASES, Phases

MAX_STEPS_BETWEEN_LOGS = 50
LOGS_PER_EPOCH = 10


class Sink(Protocol):
    """Where rank 0's metrics go; `pipeline.tracking.spool.Spool` in a run."""

    def append(self, step: int, metrics: dict[str, float], epoch: int | None = None) -> None: ...


class Record:
    """The figures of one run on one rank; kept in its checkpoints, so that a resume continues them."""

    def __init__(
        self,
        sink: Sink | None,
        *,
        global_batch_size: int,
        steps_per_epoch: int,
        phases: Phases,
        judge: Callable[[Sequence[Spent]], Verdict],
    ):
        """`phases` are marked by whoever does what they measure."""
        self._sink = sink
        self.phases, self._judge = phases, judge
        self._work = Work()
        self._spent: list[Spent] = []
        """By rank, since the epoch began or was resumed."""
        self._known: Verdict | None = None
        """The one that was said last, or the best of its kind since."""
        self._global_batch_size = global_batch_size
        self._steps_per_epoch = steps_per_epoch
        self._log_every = max(1, min(MAX_STEPS_BETWEEN_LOGS, steps_per_epoch // LOGS_PER_EPOCH))
        self._started: float | None = None
        self._rows: list[dict[str, int | float]] = []
        self._loss_sum = 0.0
        self._logged_position = 0
        self._train_seconds = 0.0
        self._epoch_seconds = 0.0
        self._validation: dict[str, float] = {}
        self._without_gain: dict[str, int] = {}

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        self._lap()
        return {
            "rows": [dict(row) for row in self._rows],
            "loss_sum": self._loss_sum,
            "logged_position": self._logged_position,
            "train_seconds": self._train_seconds,
            "epoch_seconds": self._epoch_seconds,
            "validation": dict(self._validation),
            "without_gain": dict(self._without_gain),
        }

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, f"_{name}", value)

    def is_log_point(self, position: int) -> bool:
        """Every few steps of an epoch, and its last."""
        step = (position - 1) % self._steps_per_epoch + 1
        return step % self._log_every == 0 or step == self._steps_per_epoch

    def steps_since_log(self, position: int) -> int:
        return position - self._logged_position

    def worked(self, work: Work) -> None:
        """What the loader's threads did for a batch."""
        self._work = Work(*(mine + its for mine, its in zip(self._work, work, strict=True)))

    def take_spent(self) -> Spent:
        """This rank's time since the last log point."""
        spent, self._work = Spent(*self.phases.take(), *self._work), Work()
        return spent

    def log_step(self, position: int, mean_loss: float, lr: float, spent: Sequence[Spent]) -> None:
        """`mean_loss` over all ranks and all steps since the last log point, and what each rank spent on them."""
        before = self._epoch_seconds
        self._lap()
        num_steps = self.steps_since_log(position)
        self._loss_sum += mean_loss * num_steps
        self._logged_position = position
        seconds = max(self._epoch_seconds - before, 1e-9)
        self._append(
            position,
            {
                "train/loss": mean_loss,
                "train/lr": lr,
                "train/images_per_second": num_steps * self._global_batch_size / seconds,
                **_split(spent, num_steps),
            },
        )
        self._spent = [sum_.plus(new) for sum_, new in zip(self._spent or [Spent()] * len(spent), spent, strict=True)]

    def log_validation(self, position: int, figures: dict[str, float]) -> None:
        """`loss`, and one of SCORES."""
        self._validation = figures
        score = next(name for name in SCORES if name in figures)
        scores = [row[f"validation_{score}"] for row in self._rows if f"validation_{score}" in row]
        self._without_gain = {"epochs_without_gain": patience.epochs_without_gain([*scores, figures[score]])}
        figures = self._validation | self._without_gain
        self._append(position, {f"val/{name}": value for name, value in figures.items()})

    def end_epoch(self, position: int, lr: float) -> str | None:
        """Adds the epoch's row to the history; what held the epoch up, where that is news."""
        self.stop_clock()
        images_per_second = self._steps_per_epoch * self._global_batch_size / max(self._epoch_seconds, 1e-9)
        self._rows.append(
            {
                "epoch": position // self._steps_per_epoch,
                "step": position,
                "train_loss": self._loss_sum / self._steps_per_epoch,
                **{f"validation_{name}": value for name, value in self._validation.items()},
                **self._without_gain,
                "lr": lr,
                "images_per_second": images_per_second,
            }
        )
        self._loss_sum = self._epoch_seconds = 0.0
        return self._end_of_spending(position)

    def _end_of_spending(self, position: int) -> str | None:
        spent, self._spent = self._spent, []
        if not spent:
            return None
        verdict = self._judge(spent)
        self._append(position, {f"loader/epoch_{verdict.bound}_bound_fraction": verdict.fraction})
        is_news = self._known is None or verdict.is_news_after(self._known)
        if is_news or verdict.fraction < self._known.fraction:
            self._known = verdict
        return verdict.text if is_news else None

    def start_clock(self) -> None:
        """Training time runs from here; validation and checkpoints stop it."""
        self._started = time.monotonic()
        self.phases.start()

    def stop_clock(self) -> None:
        self._lap()
        self._started = None
        self.phases.stop()

    @property
    def train_seconds(self) -> float:
        return self._train_seconds

    @property
    def history(self) -> list[dict[str, int | float]]:
        """A row per epoch that ended."""
        return self._rows

    def _lap(self) -> None:
        if self._started is not None:
            now = time.monotonic()
            self._train_seconds += now - self._started
            self._epoch_seconds += now - self._started
            self._started = now

    def _append(self, position: int, metrics: dict[str, float]) -> None:
        if self._sink is not None:
            self._sink.append(position, metrics, epoch=(position - 1) // self._steps_per_epoch + 1)


def _split(spent: Sequence[Spent], num_steps: int) -> dict[str, float]:
    """Parts of the steps' time, means over the ranks but for the worst; and busy seconds of loader threads a step."""
    total = spent[0]
    for each in spent[1:]:
        total = total.plus(each)
    split = {f"loader/{name}_fraction": getattr(total, name) / total.step for name in PHASES}
    split["loader/worst_rank_wait_fraction"] = max(each.wait / each.step for each in spent)
    per_step = num_steps * len(spent)
    return split | {f"loader/{name}_seconds": getattr(total, name) / per_step for name in Work._fields}

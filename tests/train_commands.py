"""`convoy train` in processes that a test can kill, with faults at exact steps of exact ranks.

A process is forked from one that has the imports already; everything after them is the command's own.
"""

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import projects

PATIENCE_SECONDS = 120.0

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["lightning", "timm", "mlflow", "pipeline.training.fit", "train_commands"])


@dataclass(frozen=True)
class Fault:
    """Happens once, in this rank, at the end of this step, before the step is on record."""

    what: Literal[
        "kill", "freeze", "bug", "kill while saving", "full disk",
        "kill driver", "terminate driver", "interrupt driver",
    ]  # fmt: skip
    step: int
    rank: int = 0


class Command:
    """A started `convoy train`."""

    def __init__(self, folder: Path, *faults: Fault, clock_shift_seconds: float = 0.0):
        self._said = folder / f"said-{time.monotonic_ns()}.txt"
        self._process = _forkserver.Process(
            target=_run, args=(folder, self._said, faults, clock_shift_seconds, environment())
        )
        self._process.start()
        self.pid = self._process.pid

    def wait(self) -> "Command":
        self._process.join(PATIENCE_SECONDS)
        if self._process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end:\n{self.said}")
        return self

    @property
    def exit_code(self) -> int:
        return self._process.exitcode

    @property
    def said(self) -> str:
        return self._said.read_text()


def train(folder: Path, *faults: Fault, clock_shift_seconds: float = 0.0) -> Command:
    """`convoy train`, run to its end."""
    return Command(folder, *faults, clock_shift_seconds=clock_shift_seconds).wait()


def the_run(folder: Path) -> Path:
    """The folder of the project's only run."""
    (run,) = [path for path in (folder / "runs").iterdir() if path.is_dir()]
    return run


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Polls what has no event to wait on: another process."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} took over {PATIENCE_SECONDS:.0f} s"
        threading.Event().wait(0.02)


def environment() -> dict[str, str]:
    """This process's, and where a command in another folder finds the pipeline and these faults."""
    return dict(os.environ) | {"PYTHONPATH": f"{projects.REPOSITORY}{os.pathsep}{Path(__file__).parent}"}


def _run(folder: Path, said: Path, faults: tuple[Fault, ...], clock_shift_seconds: float, environment: dict) -> None:
    """The forked process's own: a session of its own, as a shell would give it, and the command line's main."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from pipeline import __main__
    from pipeline.stages import train as stage

    if faults:
        stage.train_one_rank = partial(train_with_faults, faults, os.getpid(), said, stage.train_one_rank)
    if clock_shift_seconds:
        now = time.time
        time.time = lambda: now() + clock_shift_seconds
    sys.argv = ["convoy", "train"]
    __main__.main()


def train_with_faults(faults, driver: int, said: Path, train_one_rank, task, rank, world_size, device) -> None:
    """A rank's body in which faults happen; a module's function, so that Ray can send it."""
    from pipeline.training.module import Classifier

    end_step = Classifier.on_train_batch_end

    def end_step_with_faults(self, *arguments) -> None:
        for number, fault in enumerate(faults):
            mark = said.with_suffix(f".fault-{number}")
            if (fault.step, fault.rank) == (self.position, rank) and (fault.what == "bug" or not mark.exists()):
                mark.write_text(str(os.getpid()))
                _happen(fault.what, driver, task.run.stop)
        end_step(self, *arguments)

    Classifier.on_train_batch_end = end_step_with_faults
    try:
        train_one_rank(task, rank, world_size, device)
    finally:
        Classifier.on_train_batch_end = end_step


def _happen(what: str, driver: int, stop: Path) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "bug":
        raise KeyError("a bug of the user's")
    elif what == "kill while saving":
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    elif what == "full disk":
        os.fsync = _refuse
    elif what == "kill driver":
        os.kill(driver, signal.SIGKILL)
        threading.Event().wait()  # until whoever looks after ranks ends this one too
    else:
        os.kill(driver, signal.SIGTERM if what.startswith("terminate") else signal.SIGINT)
        wait_until(stop.exists, "the driver's answer to a signal")


def _refuse(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# What a run left, to compare.


def history(run: Path) -> list[tuple]:
    """Step, sample keys and loss of every committed step."""
    from pipeline.training import ledger

    return [(entry.step, sorted(entry.keys), entry.loss) for entry in ledger.read(run / "ledger")]


def same_weights(run: Path, other: Path) -> bool:
    return (run / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()


def mlflow_runs(folder: Path) -> list:
    """Every MLflow run in the project's own store."""
    from pipeline.tracking import store

    client = store.connect(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = client.search_experiments(filter_string="name = 'convoy'")
    return [run for experiment in experiments for run in client.search_runs([experiment.experiment_id])]


def metric_steps(folder: Path, run_id: str, key: str) -> list[int]:
    from pipeline.tracking import store

    client = store.connect(f"sqlite:///{folder / 'mlflow.db'}")
    return [metric.step for metric in client.get_metric_history(run_id, key)]

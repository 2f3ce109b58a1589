"""`convoy train` in processes that a test can kill, with faults at exact steps of exact ranks.

A process is forked from one that has the imports already; everything after them is the command's own.
"""

import errno
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cut_wire
import projects
import psutil

PATIENCE_SECONDS = 120.0

_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["lightning", "timm", "mlflow", "pipeline.training.fit", "train_commands"])


@dataclass(frozen=True)
class Fault:
    """Happens once, in this rank, at the end of this step, before the step is on record."""

    what: Literal[
        "kill", "freeze", "bug", "kill while saving", "full disk", "lose node", "announce loss", "out of memory",
        "kill driver", "terminate driver", "interrupt driver", "cut the wire", "cut the wire for 30 s", "wait",
    ]  # fmt: skip
    step: int
    rank: int = 0


class Command:
    """A started `convoy train`, or another command, which can be killed where it calls a function: `dies_in`."""

    def __init__(
        self,
        folder: Path,
        *faults: Fault,
        clock_shift_seconds: float = 0.0,
        command: str = "train",
        dies_in: str | None = None,
        network: str | None = None,
    ):
        """In a network namespace of `cut_wire`, where one is named."""
        self._said = folder / f"said-{time.monotonic_ns()}.txt"
        self._process = _forkserver.Process(
            target=_run,
            args=(folder, self._said, faults, clock_shift_seconds, environment(), command, dies_in, network),
        )
        self._process.start()
        self.pid = self._process.pid

    def wait(self, seconds: float = PATIENCE_SECONDS) -> "Command":
        self._process.join(seconds)
        if self._process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"it did not end:\n{self.said}")
        return self

    def wait_for_faults(self) -> None:
        """Until the first of them has happened."""
        wait_until(self._said.with_suffix(".fault-0").exists, "the fault")

    @property
    def exit_code(self) -> int:
        return self._process.exitcode

    @property
    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""


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


def _run(
    folder: Path,
    said: Path,
    faults: tuple[Fault, ...],
    clock_shift_seconds: float,
    environment: dict,
    command: str,
    dies_in: str | None,
    network: str | None,
) -> None:
    """The forked process's own: a session of its own, as a shell would give it, and the command line's main."""
    os.setsid()
    if network:
        cut_wire.enter(network)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    from pipeline import __main__
    from pipeline.stages import train as stage

    if faults or any(folder.glob("*.fault-*")):
        stage.train_one_rank = partial(train_with_faults, faults, os.getpid(), said, stage.train_one_rank)
    if clock_shift_seconds:
        now = time.time
        time.time = lambda: now() + clock_shift_seconds
    if dies_in:
        module, _, function = dies_in.rpartition(".")
        setattr(importlib.import_module(module), function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = ["convoy", command]
    __main__.main()


def train_with_faults(faults, driver: int, said: Path, train_one_rank, task, rank, world_size, device) -> None:
    """A rank's body in which faults happen; a module's function, so that Ray can send it."""
    from pipeline.training.module import Classifier

    end_step = Classifier.on_train_batch_end

    def end_step_with_faults(self, *arguments) -> None:
        _note_recovery(said.parent, rank)
        for number, fault in enumerate(faults):
            mark = said.with_suffix(f".fault-{number}")
            if (fault.step, fault.rank) == (self.position, rank) and (fault.what == "bug" or not mark.exists()):
                mark.write_text(f"{os.getpid()} {rank} {time.monotonic()}")
                _happen(fault.what, driver, task.run, self)
        end_step(self, *arguments)

    Classifier.on_train_batch_end = end_step_with_faults
    try:
        train_one_rank(task, rank, world_size, device)
    finally:
        Classifier.on_train_batch_end = end_step


def _note_recovery(folder: Path, rank: int) -> None:
    """The seconds from each fault so far to the first step that its rank ended in another process, beside its mark."""
    for mark in folder.glob("*.fault-[0-9]"):
        recovered = mark.with_name(f"{mark.name}.recovered")
        pid, of_rank, seconds = mark.read_text().split()
        if not recovered.exists() and int(of_rank) == rank and int(pid) != os.getpid():
            recovered.write_text(str(time.monotonic() - float(seconds)))


def _happen(what: str, driver: int, run, classifier) -> None:
    position = classifier.position
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "wait":
        threading.Event().wait()  # for its end, which the test brings about
    elif what == "bug":
        raise KeyError("a bug of the user's")
    elif what == "spoil weights":
        next(classifier.network.parameters()).data.fill_(float("nan"))
    elif what == "kill while saving":
        _at_the_next_checkpoint(run, position, lambda file: os.kill(os.getpid(), signal.SIGKILL))
    elif what == "full disk":
        _at_the_next_checkpoint(run, position, _refuse)
    elif what == "out of memory":
        _run_out_of_memory()
    elif what == "lose node":
        os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its node's raylet
        threading.Event().wait()  # a worker ends with its raylet
    elif what.startswith("cut the wire"):
        cut_wire.cut(30.0 if what.endswith("for 30 s") else None)
    elif what == "meet a pause":
        wait_until(run.stop.exists, "the driver's wish for a pause")
    elif what == "announce loss":
        _announce_loss()
        wait_until(run.stop.exists, "the driver's answer to a node that says it will go")
    elif what == "kill driver":
        os.kill(driver, signal.SIGKILL)
        threading.Event().wait()  # until whoever looks after ranks ends this one too
    else:
        os.kill(driver, signal.SIGTERM if what.startswith("terminate") else signal.SIGINT)
        wait_until(run.stop.exists, "the driver's answer to a signal")


def _at_the_next_checkpoint(run, position: int, happens: Callable) -> None:
    """Once the one of this position is written, by a thread: what happens when a file of the next goes to the disk."""
    from pipeline.training import checkpoint

    wait_until(lambda: checkpoint.positions(run.checkpoints)[:1] == [position], "the checkpoint before the fault")
    checkpoint._flush = happens


def _run_out_of_memory() -> None:
    """A real limit that a real allocation meets."""
    now_bytes = psutil.Process().memory_info().vms
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + 2**26, limits[1]))
    try:
        import torch

        torch.empty(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _announce_loss() -> None:
    """What a cloud does before it takes this process's node away: two minutes' notice."""
    import ray
    from ray.core.generated import autoscaler_pb2

    context = ray.get_runtime_context()
    ray._raylet.GcsClient(address=context.gcs_address).drain_node(
        context.get_node_id(),
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "a test",
        int(time.time() + 120) * 1000,
    )


def _refuse(file) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# What a run left, to compare.


def history(run: Path) -> list[tuple]:
    """Step, sample keys and loss of every committed step."""
    from pipeline.training import ledger

    return [(entry.step, sorted(entry.keys), entry.loss) for entry in ledger.read(run / "ledger")]


def same_weights(run: Path, other: Path) -> bool:
    return (run / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()


def ended_as(undisturbed: Path, folder: Path) -> None:
    """Asserts that nothing shows of what the project's only run met: its committed steps, with their samples and
    losses, and its weights are those of the run that met nothing."""
    run = the_run(folder)
    assert history(run) == history(undisturbed)
    assert same_weights(run, undisturbed)


def published_once(folder: Path, attempts: int | None = None):
    """The project's only MLflow run, after asserting that it is FINISHED, with so many attempts where that is known."""
    (page,) = mlflow_runs(folder)
    assert page.info.status == "FINISHED"
    assert attempts is None or page.data.tags["attempts"] == str(attempts)
    return page


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

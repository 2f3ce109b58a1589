"""The command line. It imports nothing heavy: each command's work is imported when the command runs.

Exit codes: 0 done; 1 the user can mend it; 2 wrong usage; 70 a bug of ours, with its traceback.
"""

import contextlib
import enum
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConvoyError
from pipeline.stages.interrupt import PARENT_GONE

if TYPE_CHECKING:
    import psutil

BUG = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="convoy",
    help="From labelled images to a registered model, in five stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Split(enum.Enum):
    """As `artifacts.SPLITS`, which would bring numpy with it."""

    train = "train"
    validation = "validation"
    test = "test"


track = typer.Typer(help="What MLflow knows of the runs.", no_args_is_help=True, add_completion=False)
app.add_typer(track, name="track")


@app.command()
def scan() -> None:
    """List the labelled images of data.source; reads no image bytes."""
    _run_stage("scan")


@app.command()
def shard() -> None:
    """Split, decode once, and write WebDataset tars."""
    _run_stage("shard")


@app.command()
def train() -> None:
    """Train on the tars; the same inputs again resume or are done."""
    _run_stage("train")


@app.command()
def evaluate() -> None:
    """Predict the test split, compute every figure, draw the report."""
    _run_stage("evaluate")


@app.command()
def register() -> None:
    """Put the model into the MLflow registry and decide whether it becomes champion."""
    _run_stage("register")


@app.command()
def repro(
    recipe: Annotated[
        str | None,
        typer.Option(help="Write this recipe's values into params.yaml first: a name of recipes/, or a path."),
    ] = None,
) -> None:
    """Run all stages that have something new to do (dvc repro)."""
    if recipe is not None:
        _call("recipe", name=recipe)
    raise typer.Exit(_run_stage("repro"))


@app.command()
def verify() -> None:
    """Recompute every sha256 and count of data/shards."""
    _run_stage("verify")


@app.command()
def compact(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would save.")] = False,
) -> None:
    """Rewrite data/shards without tombstones, in as few tars as can be."""
    _call("compact", dry_run=dry_run)


@app.command()
def ledger(
    run: Annotated[
        str | None, typer.Argument(help="A run's folder or fingerprint; without it, the last one's.")
    ] = None,
) -> None:
    """Check what a run was trained on against its plan, step by step."""
    _call("ledger", run=run)


@app.command()
def plan(
    json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes, seconds and counts.")] = False,
) -> None:
    """Say what the run will take: steps, memory, disk, time and cost, from a few real batches."""
    _call("plan", as_json=json)


@app.command()
def order(
    split: Annotated[Split, typer.Option(help="train, validation or test.")] = Split.train,
    epoch: Annotated[int, typer.Option(min=0, help="Counted from 0.")] = 0,
    world_size: Annotated[int, typer.Option(min=1, help="Ranks that share a step.")] = 1,
    rank: Annotated[int, typer.Option(min=0, help="Whose slice of the steps.")] = 0,
    from_step: Annotated[int, typer.Option(min=0, help="First step of the epoch to print.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="How many; all without it.")] = None,
) -> None:
    """Print which samples a rank uses in which step, as JSON lines."""
    _call(
        "order", split=split.value, epoch=epoch, world_size=world_size, rank=rank, from_step=from_step, num_steps=steps
    )


@app.command()
def find_lr(
    lowest: Annotated[float, typer.Option(help="The rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="The rate of the last step.")] = 1.0,
    steps: Annotated[int, typer.Option(min=3, help="Steps in between; the fewer, the rougher.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Try learning rates from low to high on a few batches, and suggest one."""
    _call("find_lr", lowest=lowest, highest=highest, num_steps=steps, as_json=json)


@app.command()
def tune_batch(
    largest: Annotated[int, typer.Option(min=8, help="The largest batch of a rank to try.")] = 4096,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Time training steps at rising batch sizes, and suggest one."""
    _call("tune_batch", largest=largest, as_json=json)


@app.command()
def scout(
    candidates: Annotated[list[str], typer.Argument(help="Backbones, each alone or as backbone=weights.")],
    samples: Annotated[int, typer.Option(min=4, help="Training images to look at.")] = 2000,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare backbones by their frozen features, before one is trained."""
    _call("scout", candidates=candidates, num_samples=samples, as_json=json)


@app.command()
def sweep(
    space: Annotated[Path, typer.Argument(help="A file of keys of params.yaml, each with the values to search.")],
    trials: Annotated[int, typer.Option(min=1, help="Runs to begin.")] = 8,
    grace_epochs: Annotated[int, typer.Option(min=1, help="Epochs before a weak one may be stopped.")] = 1,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each; they run side by side as cores allow.")] = 1,
    seed: Annotated[int, typer.Option(help="Other values for each.")] = 0,
    optuna: Annotated[bool, typer.Option("--optuna", help="Let Optuna choose values by what came before.")] = False,
) -> None:
    """Search params by Ray Tune, and leave the best as a recipe."""
    _call(
        "sweep",
        space_path=space,
        num_trials=trials,
        grace_epochs=grace_epochs,
        cores=cores,
        seed=seed,
        with_optuna=optuna,
    )


@app.command()
def browse(
    split: Annotated[Split, typer.Option(help="train, validation or test.")] = Split.train,
    per_class: Annotated[int, typer.Option(min=1, help="Samples of each class.")] = 8,
    epochs: Annotated[int, typer.Option(min=0, help="Show each as augmented in this many epochs.")] = 4,
    output: Annotated[
        Path | None, typer.Option(help="A .html or .png file, instead of data/contact_sheet.html.")
    ] = None,
) -> None:
    """Make a contact sheet of the shards and of what augmentation does to them."""
    where = {} if output is None else {"output": output}
    _call("browse", split=split.value, num_per_class=per_class, num_epochs=epochs, **where)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Label images with data/model."""
    _call("predict", images=images, as_json=json)


@app.command()
def doctor() -> None:
    """Check this machine and this repository, and say how to mend what is wrong."""
    raise typer.Exit(0 if _call("doctor") else 1)


@track.command("sync")
def track_sync() -> None:
    """Send to MLflow what waits in the runs' folders."""
    _call("sync")


def main() -> None:
    """The console script: runs a command and turns what it raises into an exit code."""
    for signum in (signal.SIGTERM, PARENT_GONE):
        signal.signal(signum, _end)
    _follow_dvc()
    try:
        app(standalone_mode=True)
    except ConvoyError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception:
        traceback.print_exc()
        print("This is a bug of Convoy; please report it with the lines above.", file=sys.stderr)
        sys.exit(BUG)


def _run_stage(name: str) -> object:
    """Calls a stage with the sections of params.yaml that its arguments name."""
    from pipeline import params
    from pipeline.stages import layout

    stage = getattr(importlib.import_module(f"pipeline.stages.{name}"), name)
    return stage(**params.read(layout.PARAMS, inspect.signature(stage).parameters))


def _call(name: str, /, **arguments: object) -> object:
    return getattr(importlib.import_module(f"pipeline.stages.{name}"), name)(**arguments)


def _end(_signum: int, _frame: object) -> None:
    """SIGTERM ends a command as Ctrl-C does: files are given back, workers stopped."""
    raise SystemExit(128 + signal.SIGTERM)


def _follow_dvc() -> None:
    """Ends this process when the dvc that started it is gone: DVC leaves its child running on without a lock."""
    if "DVC_STAGE" not in os.environ:
        return
    import psutil

    parents = [psutil.Process(os.getppid())]
    if _is_shell(parents[0]):  # which not every shell replaces with its only command
        parents.append(parents[0].parent() or parents[0])
    pids = [parent.pid for parent in parents]

    def are_there() -> bool:
        found = [os.getppid()]
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [parent.ppid() for parent in parents[:-1]]
        return found == pids

    def watch() -> None:
        while are_there():
            threading.Event().wait(0.1)  # the same command may follow at once, and wants the lock
        os.kill(os.getpid(), PARENT_GONE)

    threading.Thread(target=watch, name="convoy-parent", daemon=True).start()


def _is_shell(process: "psutil.Process") -> bool:
    """Whether it is one that DVC started for a stage's command."""
    name, *arguments = process.cmdline() or [""]
    return arguments[:1] == ["-c"] and "python" not in Path(name).name


if __name__ == "__main__":
    main()

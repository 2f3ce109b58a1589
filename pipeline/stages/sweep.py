"""`convoy sweep`: many runs with other values of some params, the weak ones stopped early; leaves the best as a recipe.

Each trial is a run of its own in the runs' folder, so that the same sweep again goes on where it was killed, and the
best run need not be trained again.
"""

import csv
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline import params
from pipeline.artifacts import SCORES, Index
from pipeline.errors import ArtifactError, ConvoyError, ParamsError, TrackingError, TrainingError
from pipeline.stages import layout, space
from pipeline.stages.publish import publishing
from pipeline.stages.task import run_root, sections_of_task
from pipeline.stages.trial import run_trial, task_with

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.launch.tune import Outcome, Range


def sweep(space_path: Path, num_trials: int, grace_epochs: int, cores: int, seed: int, with_optuna: bool) -> None:
    """Raises ParamsError for a space that params.yaml refuses, and TrainingError when no trial came to a score."""
    from rich.console import Console

    from pipeline.launch import tune

    sections = params.read(layout.PARAMS)
    index = Index.read(layout.INDEX, made_by="shard")
    if not index.num_samples("validation"):
        raise ArtifactError(
            f"{layout.INDEX} has no validation samples, and a sweep compares validation figures; set "
            "split.validation_fraction over 0 and run `convoy shard` again."
        )
    ranges = space.read(space_path)
    _check_ends(ranges, space_path)
    console = Console(highlight=False, soft_wrap=True)
    num_epochs = sections["training"].epochs
    with publishing(layout.SWEEP) as [folder]:
        scratch = run_root(sections["cluster"]) / "runs" / ".sweeps" / _name(sections, index, ranges, seed)
        scratch.mkdir(parents=True, exist_ok=True)
        with _Page(sections, ranges, num_trials, scratch, console) as page:
            outcomes = tune.search(
                partial(run_trial, Path.cwd(), page.run_id, cores),
                ranges,
                num_trials=num_trials,
                num_epochs=num_epochs,
                grace_epochs=min(grace_epochs, num_epochs),
                cores_per_trial=cores,
                seed=seed,
                with_optuna=with_optuna,
                address=sections["cluster"].address,
                folder=scratch,
                say=lambda text: console.print(text, markup=False),
            )
            best = choose(outcomes)
            page.best = {f"val/{index.score_name}": best.score}
        folder.mkdir()
        _write_trials(outcomes, index.score_name, folder / layout.SWEEP_TRIALS.name)
        figure = f"validation {SCORES[index.score_name]}"
        _write_best(best, figure, folder / layout.SWEEP_BEST.name)
    _print_table(outcomes, best, figure, console)


def _name(sections: dict[str, params.Section], index: Index, ranges: "dict[str, Range]", seed: int) -> str:
    """The same for the same sweep: it then goes on on its page in MLflow."""
    from pipeline.training.folder import fingerprint

    names = (name for name in sections_of_task() if name not in ("cluster", "tracking"))
    searched = {"seed": seed, **{key: str(each) for key, each in ranges.items()}}
    deciding = params.for_fingerprint(*(sections[name] for name in names)) | {"sweep": searched}
    return fingerprint(deciding, index.digest, "none")


def choose(outcomes: "list[Outcome]") -> "Outcome":
    """The best of those that were trained longest. Raises TrainingError when there is no score."""
    scored = [outcome for outcome in outcomes if outcome.score is not None]
    if not scored:
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        raise TrainingError(
            f"None of {len(outcomes)} trials came to an epoch's end; the first failed so: {(problems or ['?'])[0]}"
        )
    longest = max(outcome.num_epochs for outcome in scored)
    return max((outcome for outcome in scored if outcome.num_epochs == longest), key=lambda outcome: outcome.score)


def _check_ends(ranges: "dict[str, Range]", path: Path) -> None:
    """Refuses before anything starts what params.yaml would refuse in a trial."""
    for key, each in ranges.items():
        for value in each.choices or (each.low, each.high):
            try:
                task_with({key: value})
            except ConvoyError as exc:
                raise ParamsError(f"{path}: {key}: {value} is refused: {exc}") from exc


class _Page:
    """The sweep's page in MLflow, with the trials' under it. Without a store that answers, the sweep goes on."""

    def __init__(
        self,
        sections: dict[str, params.Section],
        ranges: "dict[str, Range]",
        num_trials: int,
        folder: Path,
        console: "Console",
    ):
        from pipeline.tracking import address

        tracking = sections["tracking"]
        self._root = run_root(sections["cluster"])
        self._uri = address.resolve(tracking.uri, self._root)
        self._experiment, self._folder, self._console = tracking.experiment, folder, console
        self._params = {"trials": num_trials} | {f"search {key}": _shown(each) for key, each in ranges.items()}
        self.run_id: str | None = None
        self.best: dict[str, float] = {}

    def __enter__(self) -> "_Page":
        from pipeline.tracking import parent

        try:
            self.run_id = parent.open_parent(self._uri, self._experiment, "sweep", self._params, self._folder)
        except TrackingError as exc:
            self._console.print(f"{exc} The trials' runs lie beside each other then.", markup=False)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        from pipeline.stages.sync import send_all
        from pipeline.tracking import parent

        if self.run_id is None:
            return
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        try:
            send_all(self._root / "runs", self._uri, lambda text: None)  # who was stopped early had no time to
        except TrackingError as exc:
            self._console.print(f"{exc} `convoy track sync` sends what waits.", markup=False)
        try:
            parent.close_parent(self._uri, self.run_id, status, self.best)
        except TrackingError as exc:
            self._console.print(
                f"{exc} The sweep's page in MLflow says RUNNING until the same sweep runs again.", markup=False
            )


def _shown(wanted: "Range") -> str:
    if wanted.choices:
        return f"one of {', '.join(map(str, wanted.choices))}"
    return f"{wanted.low:g} to {wanted.high:g}{', by the logarithm' if wanted.is_log else ''}"


def _write_trials(outcomes: "list[Outcome]", score_name: str, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        names = list(outcomes[0].values)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *names, "epochs", f"validation_{score_name}", "problem"])
        for number, each in enumerate(outcomes, 1):
            writer.writerow([number, *each.values.values(), each.num_epochs, each.score, each.problem])


def _write_best(best: "Outcome", figure: str, path: Path) -> None:
    """A recipe, so that `convoy repro --recipe` takes it."""
    head = f"# The best of a sweep: {figure} {best.score:.4f} after {best.num_epochs} epochs.\n"
    path.write_text(head + yaml.safe_dump(space.sections(best.values), sort_keys=False), encoding="utf-8")


def _print_table(outcomes: "list[Outcome]", best: "Outcome", figure: str, console: "Console") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("trial", *best.values, "epochs", figure):
        table.add_column(name, justify="right", overflow="fold")
    order = sorted(range(len(outcomes)), key=lambda n: (outcomes[n].num_epochs, outcomes[n].score or 0.0), reverse=True)
    for number in order:
        each = outcomes[number]
        values = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in each.values.values()]
        score = f"{each.score:.4f}" if each.score is not None else each.problem or ""
        table.add_row(str(number + 1), *values, str(each.num_epochs), score, style="bold" if each is best else None)
    console.print(table)
    console.print(
        f"{layout.SWEEP_TRIALS} has all of them. `convoy repro --recipe {layout.SWEEP_BEST}` goes on with the best.",
        markup=False,
    )

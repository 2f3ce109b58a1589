"""`convoy ledger`: what a run was trained on, against what it was meant to be trained on."""

from pathlib import Path

from pipeline import params
from pipeline.artifacts import Run
from pipeline.errors import ArtifactError
from pipeline.stages import layout
from pipeline.stages.home import home
from pipeline.wording import counted


def ledger(run: str | None) -> None:
    """`run` is a run's folder or fingerprint; None for the run that data/run.json names."""
    from rich.console import Console

    from pipeline.training.folder import RunFolder
    from pipeline.training.proof import check

    folder = find_run(run)
    proof = check(RunFolder(folder), layout.INDEX, params.read(layout.PARAMS, ["loading"])["loading"].cache_bytes)
    compared = "keys" if proof.with_keys else "digests"
    attempts = counted(proof.num_attempts, "attempt")
    Console().print(
        f"[bold]exact[/]: {proof.num_steps:,} of {proof.num_steps_planned:,} steps committed, "
        f"{proof.num_samples:,} samples as planned (by their {compared}), {attempts}, {folder.name}"
        + (f"; {proof.ending}" if proof.ending and proof.num_steps < proof.num_steps_planned else ""),
        soft_wrap=True,
    )


def find_run(run: str | None) -> Path:
    """The run's folder. Raises ArtifactError, listing the runs there are."""
    root = runs_folder(params.read(layout.PARAMS, ["cluster"])["cluster"])
    name = run or Run.read(layout.RUN, made_by="train").fingerprint
    for folder in (root / name, Path(name)):
        if (folder / "plan.json").is_file():
            return folder
    known = sorted(path.parent.name for path in root.glob("*/plan.json"))
    raise ArtifactError(
        f"{name} is neither a run's folder nor the fingerprint of one in {root}; there "
        + (f"are {', '.join(known)}." if known else "is none yet: run `convoy train` first.")
    )


def runs_folder(cluster: params.Cluster) -> Path:
    """Where the runs' folders lie, whether or not a run was ever started."""
    return home() / (cluster.storage or "") / "runs"

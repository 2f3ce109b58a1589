"""`convoy track sync`: sends to MLflow what waits in the runs' folders."""

from collections.abc import Callable
from pathlib import Path

from pipeline import params
from pipeline.errors import ArtifactError, LockedError, TrackingError
from pipeline.stages import layout
from pipeline.stages.ledger import runs_folder
from pipeline.stages.publish import lock


def sync() -> None:
    """Raises TrackingError when a run could not be sent; the others are sent all the same."""
    from rich.console import Console

    from pipeline.tracking import address

    read = params.read(layout.PARAMS, ["cluster", "tracking"])
    root = runs_folder(read["cluster"])
    uri = address.resolve(read["tracking"].uri, root.parent)
    console = Console(highlight=False, soft_wrap=True)
    if not send_all(root, uri, lambda text: console.print(text, markup=False)):
        console.print(f"nothing waits: {address.strip_credentials(uri)} has every run of {root}", markup=False)


def send_all(root: Path, uri: str, say: Callable[[str], None]) -> int:
    """How many runs waited in `root`; raises TrackingError as `sync` does."""
    from pipeline.tracking.run import RUN_FILE, is_published

    waiting = [path.parent for path in sorted(root.glob(f"*/{RUN_FILE}")) if not is_published(path.parent)]
    problems = []
    for folder in waiting:
        try:
            with lock(folder / ".lock"):
                say(f"sent: {folder.name} is MLflow's run {_send(folder, uri)}")
        except LockedError:
            say(f"left: {folder.name} is being trained, and that sends its own")
        except (ArtifactError, TrackingError) as exc:
            problems.append(f"{folder.name}: {exc}")
    if problems:
        raise TrackingError("\n".join([f"{len(problems)} of {len(waiting)} runs still wait:", *problems]))
    return len(waiting)


def _send(folder: Path, uri: str) -> str:
    from pipeline.stages.tracked import committed, end_tags
    from pipeline.tracking.sync import send_waiting
    from pipeline.training.folder import RunFolder

    run = RunFolder(folder)
    return send_waiting(folder, uri, next(iter(committed(run)), 0), end_tags(run))

"""`convoy predict`: label and probability of any image files, or all labels of a multi-label model, from data/model and
nothing else."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import path_names
from pipeline.errors import ImageError, SourceError
from pipeline.stages import layout
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.registry.classify import Answer


def predict(images: list[Path], as_json: bool = False) -> None:
    """Prints a table's row (with `as_json` a JSON line) for each file, and for each file under a folder.

    Raises ImageError at the end when files could not be answered; the others are. Raises SourceError for no file at
    all, ArtifactError without a model.
    """
    paths = [path for given in images for path in _files(given)]
    if not paths:
        raise SourceError(f"No file in {', '.join(map(str, images))}; name images, or folders that hold some.")
    from pipeline.registry.classify import Classifier

    answers = Classifier(layout.MODEL).classify(_read(path) for path in paths)
    names = [path_names.escape_path(os.fsencode(path)) for path in paths]
    num_failed = (_print_json if as_json else _print_table)(zip(names, answers, strict=True))
    if num_failed:
        raise ImageError(
            "unreadable", f"{num_failed} of {counted(len(paths), 'file')} could not be read as images; see above."
        )


def _files(given: Path) -> list[Path]:
    """A folder's files, hidden ones left out, sorted; anything else stands for itself."""
    if not given.is_dir():
        return [given]
    found = (path for path in given.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(given).parts))


def _read(path: Path) -> bytes | ImageError:
    try:
        return path.read_bytes()
    except OSError as exc:
        return ImageError("unreadable", f"The file cannot be read: {exc.strerror}.")


def _print_json(answers: "Iterable[tuple[str, Answer | ImageError]]") -> int:
    """The number of files without an answer."""
    num_failed = 0
    for name, answer in answers:
        if isinstance(answer, ImageError):
            num_failed += 1
            entry = {"path": name, "error": str(answer)}
        else:
            entry = {"path": name, **answer._asdict()}
        print(json.dumps(entry), flush=True)
    return num_failed


def _print_table(answers: "Iterable[tuple[str, Answer | ImageError]]") -> int:
    """The number of files without an answer."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table, num_failed = Table("image", "label", "probability"), 0
    for name, answer in answers:
        if isinstance(answer, ImageError):
            num_failed += 1
            table.add_row(Text(name), Text(f"not answered: {answer}", style="red"), "")
        else:
            # Text, because a class may be called [bold].
            said = getattr(answer, "labels", None)
            labels = [answer.label] if said is None else said
            probabilities = ", ".join(f"{answer.probabilities[label]:.4f}" for label in labels)
            table.add_row(Text(name), Text(", ".join(labels) or "(none)"), probabilities)
    Console().print(table)
    return num_failed

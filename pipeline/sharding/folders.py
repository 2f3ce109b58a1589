"""Labelled images in folders: `class/image`, or `split/class/image`, which fixes the split.

Names are bytes here, as the file system has them, and become text by `escape_path`. Nothing is opened but folders.
What is no record is counted by reason, so that nothing disappears silently.
"""
# pathlib has no paths of bytes.
# ruff: noqa: PTH116, PTH118, PTH122

import os
from collections import Counter
from collections.abc import Callable, Iterator

from pipeline.errors import SourceError
from pipeline.path_names import escape_path
from pipeline.sharding.manifest import Record
from pipeline.stores import without_secrets

IMAGE_EXTENSIONS = frozenset(
    b".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .jp2 .j2k .npy".split()
)  # what imaging reads
SPLIT_OF_FOLDER = {b"train": "train", b"val": "validation", b"validation": "validation", b"test": "test"}

FILES_PER_REPORT = 1000
"""Files between two calls of `advance`."""


def find_in_folders(root: str, ignored: Counter, advance: Callable[[int], None]) -> Iterator[Record]:
    """The records under `root`, in no order; `ignored` counts, by reason, what is none.

    Raises SourceError where the folders do not say what class or split an image has, and for one that is out of reach.
    """
    base = os.fsencode(root)
    folders, num_files, num_images = _look_at(base, ignored)
    ignored["outside_a_class"] += num_files
    if not folders and num_images:
        raise no_folders(root, num_images)
    if not are_splits(root, folders, lambda folder: bool(_look_at(os.path.join(base, folder), Counter())[0])):
        yield from _find_classes(base, b"", folders, None, ignored, advance)
        return
    for folder in folders:
        classes, num_files, _ = _look_at(os.path.join(base, folder), ignored)
        ignored["outside_a_class"] += num_files
        split = SPLIT_OF_FOLDER[folder.lower()]
        yield from _find_classes(base, folder, classes, split, ignored, advance)


def _find_classes(
    base: bytes, prefix: bytes, classes: list[bytes], split: str | None, ignored: Counter, advance: Callable
) -> Iterator[Record]:
    above = {_identity(base), _identity(os.path.join(base, prefix))}
    for class_folder in classes:
        is_empty = True
        class_name = escape_path(class_folder)
        for path, status in _walk(base, os.path.join(prefix, class_folder), set(above), ignored, advance):
            is_empty = False
            yield Record(escape_path(path), class_name, split, None, status.st_size, str(status.st_mtime_ns), "{}")
        ignored["empty_class"] += is_empty


def _walk(
    base: bytes, folder: bytes, seen: set, ignored: Counter, advance: Callable
) -> Iterator[tuple[bytes, os.stat_result]]:
    """Image files below a class folder. A folder is entered once: a link that leads up again ends there."""
    pending, num_files = [folder], 0
    while pending:
        folder = pending.pop()
        identity = _identity(os.path.join(base, folder))
        if identity in seen:
            ignored["folder_seen_before"] += 1
            continue
        seen.add(identity)
        for entry in _entries(os.path.join(base, folder)):
            if _is(entry.is_dir):
                if entry.name.startswith(b"."):
                    ignored["hidden"] += 1
                else:
                    pending.append(os.path.join(folder, entry.name))
                continue
            num_files += 1
            if num_files % FILES_PER_REPORT == 0:
                advance(FILES_PER_REPORT)
            status = _status(entry, ignored)
            if status is not None:
                yield os.path.join(folder, entry.name), status
    advance(num_files % FILES_PER_REPORT)


def _status(entry: os.DirEntry, ignored: Counter) -> os.stat_result | None:
    """None for what is no image file, counted by reason."""
    reason = why_no_image(entry.name)
    if reason is None and not _is(entry.is_file):
        reason = "not_a_regular_file"
    if reason is None:
        try:
            return entry.stat()
        except OSError:  # removed since it was listed
            reason = "unreadable_file"
    ignored[reason] += 1
    return None


def why_no_image(name: bytes) -> str | None:
    """The reason under which a file of this name is ignored; None for an image's name."""
    if name.startswith(b"._"):
        return "hidden"  # macOS's notes beside a file carry the image's extension
    extension = os.path.splitext(name)[1].lower()
    return None if extension in IMAGE_EXTENSIONS else "unknown_extension"


def _look_at(folder: bytes, ignored: Counter) -> tuple[list[bytes], int, int]:
    """Names of the visible folders in it, sorted; numbers of its files and of those with an image's extension."""
    folders, num_files, num_images = [], 0, 0
    for entry in _entries(folder):
        if _is(entry.is_dir):
            if entry.name.startswith(b"."):
                ignored["hidden"] += 1
            else:
                folders.append(entry.name)
        else:
            num_files += 1
            num_images += os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS
    return sorted(folders), num_files, num_images


def no_folders(root: str, num_images: int) -> SourceError:
    return SourceError(
        f"data.source={without_secrets(root)} holds {num_images} images and no folders; the class of an image is the "
        "name of its folder: move them into one folder a class, or list them in a table with a label column."
    )


def are_splits(root: str, folders: list[bytes], has_folders: Callable[[bytes], bool]) -> bool:
    """Whether the folders are train, validation and test with classes in them.

    Raises SourceError where they are a mixture.
    """
    named = [folder for folder in folders if folder.lower() in SPLIT_OF_FOLDER]
    if not any(map(has_folders, named)):
        return False
    shown, others = without_secrets(root), [escape_path(folder) for folder in folders if folder not in named]
    if others:
        raise SourceError(
            f"data.source={shown} holds {escape_path(named[0])}/ with folders in it beside {others[0]}/: the folders "
            "are either splits (train, val, validation, test) or classes; move one kind elsewhere."
        )
    if all(SPLIT_OF_FOLDER[folder.lower()] != "train" for folder in named):
        raise SourceError(
            f"data.source={shown} holds {', '.join(map(escape_path, named))} but no train folder; add one, or point "
            "data.source one level deeper to split by hash."
        )
    return True


def _entries(folder: bytes) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as exc:
        raise _no_folder(folder, "listed", exc) from exc


def _is(kind: Callable[[], bool]) -> bool:
    """False for a link that leads to itself, too."""
    try:
        return kind()
    except OSError:
        return False


def _identity(folder: bytes) -> tuple[int, int]:
    try:
        status = os.stat(os.path.join(folder, b"."))  # through it: a folder may be listed and its files be out of reach
    except OSError as exc:
        raise _no_folder(folder, "entered", exc) from exc
    return status.st_dev, status.st_ino


def _no_folder(folder: bytes, doing: str, exc: OSError) -> SourceError:
    return SourceError(
        f"{escape_path(folder)} cannot be {doing} ({exc.strerror}); make it readable (chmod u+rx) and leave the source "
        "alone while it is scanned."
    )

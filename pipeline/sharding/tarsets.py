"""Which tars a source means: one .tar, a pattern of them, a folder of them, or a folder train/, val/, test/ of them."""
# ruff: noqa: PTH113, PTH116, PTH119, PTH120, PTH207 - text serves for files and addresses alike

import glob
import os
import re
from functools import partial
from typing import NamedTuple

from pipeline import stores
from pipeline.errors import SourceError
from pipeline.path_names import escape_path
from pipeline.sharding.folders import SPLIT_OF_FOLDER, why_no_image
from pipeline.sharding.members import Tar

_WILDCARD = re.compile(r"[*?\[]")
MAX_CLASS_DEPTH = 2
"""Folders above an image, of `split/class/image`: to look deeper for images would take long where there are none."""


class TarSet(NamedTuple):
    root: str
    """What the tars' paths are relative to."""
    tars: list[Tar]


def find_tar_set(source: str) -> TarSet | None:
    """None for a source that is something else.

    Raises SourceError for a pattern that matches nothing, and for a folder of both tars and folders of images.
    """
    is_remote = stores.is_address(source)
    if source.endswith(".tar"):
        root, names = _root_of(source), [source]
        if _WILDCARD.search(source):
            names = stores.expand(source) if is_remote else sorted(glob.glob(source, recursive=True))
        names = [name for name in names if is_remote or os.path.isfile(name)]
        if not names:
            shown = stores.without_secrets(source)
            raise SourceError(f"data.source={shown} matches no tar; give a .tar, a pattern of them or their folder.")
        relative = [name[len(root) + 1 :] if is_remote else os.path.relpath(name, root) for name in names]
        return TarSet(root, [_tar(root, name) for name in relative])
    names = _tars_in(source)
    for folder in _look_at(source)[0] if not names else []:
        if os.fsencode(folder.lower()) in SPLIT_OF_FOLDER:
            names += [f"{folder}/{name}" for name in _tars_in(f"{source}/{folder}")]
    if not names:
        return None
    root = source.rstrip("/") or "/"
    _check_no_classes(root, names)
    return TarSet(root, [_tar(root, name) for name in names])


def _root_of(source: str) -> str:
    """The folder that all tars of a pattern lie in, however deep: what stands before the first wildcard, up to a /.

    Raises SourceError for an address without a place that images could be read from.
    """
    folder, slash, _ = _WILDCARD.split(source)[0].rpartition("/")
    if stores.is_address(source) and not stores.is_address(folder):
        shown = stores.without_secrets(source)
        raise SourceError(f"data.source={shown} leaves open which bucket is meant; name it, one bucket a set.")
    return folder or slash or "."


def _check_no_classes(root: str, names: list[str]) -> None:
    """Raises SourceError for folders of images beside the tars: one of the two would be left out silently."""
    for folder in _look_at(root)[0]:
        if _holds_pictures(f"{root}/{folder}", MAX_CLASS_DEPTH):
            shown, pattern = stores.without_secrets(root), "*/*.tar" if "/" in names[0] else "*.tar"
            raise SourceError(
                f"data.source={shown} holds the tar {names[0]} and images in the folder {folder}/; a source is either "
                f"tars or folders of classes: move the tars elsewhere, or write data.source: {shown}/{pattern}."
            )


def _holds_pictures(folder: str, depth: int) -> bool:
    """Arrays are none: beside tars they are tables of theirs, as beside our own, or embeddings."""
    folders, files = _look_at(folder)
    if any(why_no_image(name) is None and not name.lower().endswith(b".npy") for name in map(os.fsencode, files)):
        return True
    return depth > 1 and any(_holds_pictures(f"{folder}/{each}", depth - 1) for each in folders)


def _tar(root: str, name: str) -> Tar:
    split = SPLIT_OF_FOLDER.get(os.fsencode(os.path.dirname(name).lower()))
    place = f"{root}/{name}"
    if stores.is_address(place):
        return Tar(escape_path(name.encode()), split, stores.measure(place).stamp, partial(stores.open_object, place))
    return Tar(escape_path(os.fsencode(name)), split, str(os.stat(place).st_mtime_ns), partial(open, place, "rb"))


def _tars_in(folder: str) -> list[str]:
    if stores.is_address(folder):
        return [each.name for each in stores.list_folder(folder).objects if each.name.endswith(".tar")]
    return sorted(os.path.basename(path) for path in glob.glob(f"{glob.escape(folder)}/*.tar") if os.path.isfile(path))


def _look_at(folder: str) -> tuple[list[str], list[str]]:
    """Names of the visible folders in it, sorted, and of the files; none where it may not be listed."""
    if stores.is_address(folder):
        listing = stores.list_folder(folder)
        folders, files = listing.folders, [each.name for each in listing.objects]
    else:
        _, folders, files = next(os.walk(folder), (folder, [], []))
    return sorted(each for each in folders if not each.startswith(".")), files

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
from pipeline.sharding.folders import SPLIT_OF_FOLDER
from pipeline.sharding.members import Tar

_WILDCARD = re.compile(r"[*?\[]")


class TarSet(NamedTuple):
    root: str
    """What the tars' paths are relative to."""
    tars: list[Tar]


def find_tar_set(source: str) -> TarSet | None:
    """None for a source that is something else.

    Raises SourceError for a pattern that matches nothing.
    """
    is_remote = stores.is_address(source)
    if source.endswith(".tar"):
        names = [source]
        if _WILDCARD.search(source):
            names = stores.expand(source) if is_remote else sorted(glob.glob(source, recursive=True))
        names = [name for name in names if is_remote or os.path.isfile(name)]
        if not names:
            raise SourceError(f"data.source={source} matches no tar; give a .tar, a pattern of them or their folder.")
        root = _WILDCARD.split(source)[0].rsplit("/", 1)[0] if "/" in source else "."
        relative = [name[len(root) + 1 :] if is_remote else os.path.relpath(name, root) for name in names]
        return TarSet(root, [_tar(root, name) for name in relative])
    names = _tars_in(source)
    for folder in sorted(_folders_in(source)) if not names else []:
        if os.fsencode(folder.lower()) in SPLIT_OF_FOLDER:
            names += [f"{folder}/{name}" for name in _tars_in(f"{source}/{folder}")]
    return TarSet(source.rstrip("/"), [_tar(source.rstrip("/"), name) for name in names]) if names else None


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


def _folders_in(folder: str) -> list[str]:
    if stores.is_address(folder):
        return stores.list_folder(folder).folders
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir()]

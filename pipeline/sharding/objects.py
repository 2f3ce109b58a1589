"""Labelled images in folders of a store: `class/image` or `split/class/image` under an address, as `folders` has it
for a file system. One folder's listing is held at a time."""

import os
from collections import Counter
from collections.abc import Callable, Iterator

from pipeline.path_names import escape_path
from pipeline.sharding.folders import (
    FILES_PER_REPORT,
    IMAGE_EXTENSIONS,
    SPLIT_OF_FOLDER,
    are_splits,
    no_folders,
    why_no_image,
)
from pipeline.sharding.manifest import Record
from pipeline.stores import Listing, list_folder


def find_in_store(address: str, ignored: Counter, advance: Callable[[int], None]) -> Iterator[Record]:
    """The records under `address`, in no order; `ignored` counts, by reason, what is none.

    Raises SourceError where the folders do not say what class or split an image has.
    """
    top = _look_at(address, ignored)
    ignored["outside_a_class"] += len(top.objects)
    if not top.folders and top.objects:
        num_images = sum(_extension(each.name) in IMAGE_EXTENSIONS for each in top.objects)
        if num_images:
            raise no_folders(address, num_images)
    names = [folder.encode() for folder in top.folders]
    if not are_splits(address, names, lambda folder: bool(list_folder(f"{address}/{folder.decode()}").folders)):
        for class_folder in top.folders:
            yield from _find_class(address, class_folder, class_folder, None, ignored, advance)
        return
    for folder in top.folders:
        inside = _look_at(f"{address}/{folder}", ignored)
        ignored["outside_a_class"] += len(inside.objects)
        split = SPLIT_OF_FOLDER[folder.lower().encode()]
        for class_folder in inside.folders:
            yield from _find_class(address, f"{folder}/{class_folder}", class_folder, split, ignored, advance)


def _find_class(
    address: str, folder: str, class_folder: str, split: str | None, ignored: Counter, advance: Callable[[int], None]
) -> Iterator[Record]:
    pending, num_files, num_records = [folder], 0, 0
    class_name = escape_path(class_folder.encode())
    while pending:
        folder = pending.pop()
        listing = _look_at(f"{address}/{folder}", ignored)
        pending += [f"{folder}/{each}" for each in listing.folders]
        for found in listing.objects:
            num_files += 1
            if num_files % FILES_PER_REPORT == 0:
                advance(FILES_PER_REPORT)
            reason = why_no_image(found.name.encode())
            if reason is not None:
                ignored[reason] += 1
                continue
            num_records += 1
            path = escape_path(f"{folder}/{found.name}".encode())
            yield Record(path, class_name, split, None, found.num_bytes, found.stamp, "{}")
    ignored["empty_class"] += not num_records
    advance(num_files % FILES_PER_REPORT)


def _look_at(address: str, ignored: Counter) -> Listing:
    """Without the hidden folders, which are counted."""
    listing = list_folder(address)
    folders = [folder for folder in listing.folders if not folder.startswith(".")]
    ignored["hidden"] += len(listing.folders) - len(folders)
    return Listing(folders, listing.objects)


def _extension(name: str) -> bytes:
    return os.path.splitext(name)[1].lower().encode()  # noqa: PTH122 - an object's name is no path

"""The bytes of one source image, by the path that the manifest has for it.

The root is a folder, an address of one, or `tar::` before either where the images are members of tars. A path may be
an address of its own.
"""

import os
import re
import stat
from pathlib import Path

from pipeline import stores
from pipeline.errors import ImageError
from pipeline.path_names import unescape_path

MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are rejected unread: 120 million pixels of 16-bit RGB, hardly compressed, are 720 MB; nobody trains on
those as they are."""

TAR_ROOT = "tar::"
_MEMBER = re.compile(r"(?P<tar>.*?\.tar)/(?P<member>.*)#(?P<offset>\d+)\+(?P<num_bytes>\d+)", re.DOTALL)


def member_path(tar: str, member: str, offset: int, num_bytes: int) -> str:
    """The manifest's path of a tar's member: where its bytes lie is part of it, so that none is searched for."""
    return f"{tar}/{member}#{offset}+{num_bytes}"


def absolute_root(root: str | Path) -> str:
    """The root for processes that have a working directory of their own."""
    text = str(root)
    prefix, place = (TAR_ROOT, text.removeprefix(TAR_ROOT)) if text.startswith(TAR_ROOT) else ("", text)
    return prefix + (place if stores.is_address(place) else os.path.abspath(place))  # noqa: PTH100 - keeps `..` of links


def read_image(root: str | Path, path: str) -> bytes:
    """Raises ImageError with the reason unreadable_file or too_many_bytes, and StorageError for a store that is out
    of reach."""
    place, start, num_bytes = str(root), 0, None
    if place.startswith(TAR_ROOT):
        found = _MEMBER.fullmatch(path)
        place, path = place.removeprefix(TAR_ROOT), found["tar"]
        start, num_bytes = int(found["offset"]), int(found["num_bytes"])
        _check_size(num_bytes)
    try:
        if stores.is_address(path) or stores.is_address(place):
            address = stores.join(place, unescape_path(path).decode())
            return stores.read(address, start, num_bytes, _check_size)
        return _read_file(os.path.join(os.fsencode(place), unescape_path(path)), start, num_bytes)  # noqa: PTH118
    except FileNotFoundError as exc:
        raise ImageError("unreadable_file", "The file cannot be read: No such file or directory.") from exc
    except OSError as exc:
        raise ImageError("unreadable_file", f"The file cannot be read: {exc.strerror}.") from exc


def _read_file(name: bytes, start: int, num_bytes: int | None) -> bytes:
    with open(name, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("unreadable_file", "The file cannot be read: it is no regular file any more.")
        if num_bytes is None:
            _check_size(status.st_size)
            return file.read()
        file.seek(start)
        data = file.read(num_bytes)
    if len(data) != num_bytes:
        raise ImageError("unreadable_file", f"The tar ends inside the member: {len(data)} of {num_bytes} bytes.")
    return data


def _open_at_once(name: bytes, flags: int) -> int:
    """A pipe would be waited for until somebody writes to it."""
    return os.open(name, flags | os.O_NONBLOCK)


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_IMAGE_BYTES:
        raise ImageError(
            "too_many_bytes", f"The file has {num_bytes} bytes, more than the {MAX_IMAGE_BYTES} that are read."
        )

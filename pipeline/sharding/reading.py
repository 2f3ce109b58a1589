"""The bytes of one source image, by the path that the manifest has for it."""

import os
import stat
from pathlib import Path

from pipeline.artifacts import unescape_path
from pipeline.errors import ImageError

MAX_IMAGE_BYTES = 256 * 2**20
"""Larger files are rejected unread: 120 million pixels of 16-bit RGB, hardly compressed, are 720 MB; nobody trains on
those as they are."""


def read_image(root: Path, path: str) -> bytes:
    """Raises ImageError with the reason unreadable_file or too_many_bytes."""
    name = os.path.join(os.fsencode(root), unescape_path(path))  # noqa: PTH118 - pathlib has no paths of bytes
    try:
        with open(name, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable_file", "The file cannot be read: it is no regular file any more.")
            num_bytes = status.st_size
            if num_bytes > MAX_IMAGE_BYTES:
                raise ImageError(
                    "too_many_bytes", f"The file has {num_bytes} bytes, more than the {MAX_IMAGE_BYTES} that are read."
                )
            return file.read()
    except OSError as exc:
        raise ImageError("unreadable_file", f"The file cannot be read: {exc.strerror}.") from exc


def _open_at_once(name: bytes, flags: int) -> int:
    """A pipe would be waited for until somebody writes to it."""
    return os.open(name, flags | os.O_NONBLOCK)

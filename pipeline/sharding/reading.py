"""The bytes of one source image, by the path that the manifest has for it."""

import os
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
        with open(name, "rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if num_bytes > MAX_IMAGE_BYTES:
                raise ImageError(
                    "too_many_bytes", f"The file has {num_bytes} bytes, more than the {MAX_IMAGE_BYTES} that are read."
                )
            return file.read()
    except OSError as exc:
        raise ImageError("unreadable_file", f"The file cannot be read: {exc.strerror}.") from exc

"""One object of a store into one file, a part at a time, compared with the index before anybody may use it."""

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path

from pipeline import stores
from pipeline.errors import ArtifactError, StorageError

PART_BYTES = 8 * 1024**2
"""What is held of an object, and what is asked for again when an answer breaks off."""

WAITS_SECONDS = (0.2, 1.0, 4.0, 15.0, 30.0)
"""Between the attempts for one part: a store that is back within a minute costs a minute and no run."""

MAX_DELIVERIES = 2
"""Whole objects with another content than the index says, before the object itself is taken for damaged."""


def fetch(
    address: str,
    path: Path,
    *,
    what: str,
    num_bytes: int | None,
    sha256: str,
    is_over: Callable[[], bool] = lambda: False,
) -> None:
    """Fills the file at `path` with the object, verified; `num_bytes` None for a small one that comes in one part.

    Gives up once `is_over`. Messages name it as `what` it is. Raises ArtifactError when the object is gone or another
    one, and StorageError when the store or the disk fails.
    """
    shown = stores.without_secrets(address)
    try:
        if any(_deliver(address, path, num_bytes, is_over) == sha256 for _ in range(MAX_DELIVERIES)):
            return
    except StorageError as exc:
        raise StorageError(f"{what} does not come: {exc}") from exc
    except FileNotFoundError as exc:
        raise ArtifactError(
            f"{what} is gone: {shown} does not exist any more, but the index lists it; put it back, or remove "
            "data/shards and run `convoy shard`."
        ) from exc
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
            raise
        raise StorageError(
            f"{what} cannot be written to {path.parent} ({exc.strerror}); free some space, lower loading.cache_bytes, "
            "or name another folder in CONVOY_CACHE, then run the same command again."
        ) from exc
    raise ArtifactError(
        f"{what} is not what the index lists: {shown} came {MAX_DELIVERIES} times with another sha256 than "
        f"{sha256[:12]}; put the right object back, or remove data/shards and run `convoy shard`."
    )


def _deliver(address: str, path: Path, num_bytes: int | None, is_over: Callable[[], bool]) -> str:
    """The sha256 of what came."""
    digest = hashlib.sha256()
    with path.open("r+b") as file:
        for start in range(0, num_bytes or 1, PART_BYTES):
            if is_over():
                raise StorageError(f"{stores.without_secrets(address)} was being fetched when its reader was closed.")
            wanted = num_bytes and min(PART_BYTES, num_bytes - start)
            data = stores.read(address, start, wanted, lambda _: None, WAITS_SECONDS)
            file.write(data)
            digest.update(data)
        file.truncate()
    return digest.hexdigest()

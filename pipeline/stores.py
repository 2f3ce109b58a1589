"""Objects behind an address (`s3://`, `gs://`, `https://`, `memory://`): listed, measured, read, written.

What a moment may mend, a 503 or a body cut short, is tried again a bounded number of times; what stays broken becomes
a StorageError. Addresses of services and secrets come from the environment, as each store's own tools read them.
"""

import hashlib
import os
import re
import socket
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline.errors import ConvoyError, SourceError, StorageError

RETRY_SECONDS = (0.1, 0.5, 2.5)
"""Waits before the second, third and fourth attempt; the stores' own clients wait as well."""

SILENCE_SECONDS = 60.0
"""An answer that takes longer is given up for this attempt; a part of 8 MB needs 0.13 MB/s to come in time."""

_SECRETS = re.compile(r"(?<=://)[^/\s@'\"]*@|(?<=[^\s?])\?[^\s'\"]*=[^\s'\")]*")
"""User and password, and a query: signed addresses carry their secret there."""

GONE_STATUSES = (404, 410)
STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
"""What the stores call that which changes with the content, the best first."""

Result = TypeVar("Result")


class Object(NamedTuple):
    name: str
    """Inside its folder."""
    num_bytes: int
    stamp: str
    """Changes with the content; empty where the store has nothing of the kind."""


class Listing(NamedTuple):
    folders: list[str]
    objects: list[Object]


def is_address(text: str) -> bool:
    return "://" in text


def join(address: str, path: str) -> str:
    """`path` itself where it is an address of its own."""
    return path if is_address(path) else f"{address.rstrip('/')}/{path}"


def without_secrets(text: str) -> str:
    """An address, or a message with addresses in it, as it may be shown."""
    return _SECRETS.sub("", text)


def parent(address: str) -> str:
    return address.rsplit("/", 1)[0]


def list_folder(address: str) -> Listing:
    """Sorted by name. Empty for a folder that does not exist, which most stores cannot tell from an empty one."""
    store, path = _store(address)
    folders, objects = [], []
    try:
        entries = _retried(lambda: store.ls(path, detail=True), address)
    except FileNotFoundError:
        return Listing([], [])
    for entry in entries:
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if entry["name"].strip("/") == path.strip("/") or not name:
            continue  # the marker that some tools leave for the folder itself
        if entry["type"] == "directory":
            folders.append(name)
        else:
            objects.append(_object(name, entry))
    return Listing(sorted(folders), sorted(objects))


def measure(address: str) -> Object:
    """Raises FileNotFoundError."""
    store, path = _store(address)
    return _object(path.rsplit("/", 1)[-1], _retried(lambda: store.info(path), address))


def read(
    address: str,
    start: int,
    num_bytes: int | None,
    check_size: Callable[[int], None],
    waits_seconds: tuple[float, ...] | None = None,
) -> bytes:
    """`num_bytes` from `start` on; null for the whole object, once `check_size` let its size pass.

    Never fewer bytes than asked for, or than the store says there are; tried again after each of `waits_seconds`.
    Raises FileNotFoundError.
    """
    store, path = _store(address)
    patience = {"timeout": SILENCE_SECONDS} if getattr(store, "async_impl", False) else {}

    def attempt() -> bytes:
        if num_bytes is not None:
            data, expected = store.cat_file(path, start=start, end=start + num_bytes, **patience), num_bytes
        else:
            # HTTP's client cannot tell a missing size from a missing object, and checks the length of a body itself.
            expected = None if address.startswith(("http://", "https://")) else store.info(path)["size"]
            if expected is not None:
                check_size(expected)
            data = store.cat_file(path, **patience)
        if expected is not None and len(data) != expected:
            raise OSError(f"{len(data)} bytes came of {expected}")
        check_size(len(data))
        return data

    return _retried(attempt, address, waits_seconds)


def upload(path: Path, address: str) -> None:
    """The file under the address, whatever was there. Raises StorageError."""
    store, place = _store(address)
    num_bytes, shown = path.stat().st_size, without_secrets(address)

    def attempt() -> None:
        store.put_file(str(path), place)
        if (num_arrived := store.info(place)["size"]) != num_bytes:
            raise OSError(f"{num_arrived} bytes arrived of {num_bytes}")

    try:
        _retried(attempt, address, doing="written")
    except FileNotFoundError as exc:
        raise StorageError(f"{shown} cannot be written: its bucket does not exist; make it, or name another.") from exc


def open_object(address: str) -> Any:
    """A file to read from anywhere in the object, a part at a time. Raises FileNotFoundError."""
    store, path = _store(address)
    return _retried(lambda: store.open(path, "rb"), address)


def expand(pattern: str) -> list[str]:
    """Addresses that match a pattern with `*`, `?` or `[...]`, sorted."""
    store, path = _store(pattern)
    return sorted(store.unstrip_protocol(each) for each in _retried(lambda: store.glob(path), pattern))


def _object(name: str, entry: dict) -> Object:
    stamp = next((entry[key] for key in STAMPS if key in entry), "")
    return Object(name, entry.get("size") or 0, str(stamp).strip('"'))


@lru_cache(maxsize=64)
def _filesystem(protocol: str, server: str) -> Any:
    import fsspec

    try:
        # Listings are asked for once; remembered ones would be held for a million objects.
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except (ImportError, ValueError) as exc:
        place = without_secrets(f"{protocol}://{server}")
        raise SourceError(
            f"{place} cannot be opened: {exc}; install its extra (convoy[s3], [gcs], [azure]) or check the address."
        ) from exc


def _store(address: str) -> tuple[Any, str]:
    protocol, rest = address.split("://", 1)
    store = _filesystem(protocol, rest.split("/", 1)[0])
    return store, store._strip_protocol(address)


def _retried(
    attempt: Callable[[], Result], address: str, waits_seconds: tuple[float, ...] | None = None, doing: str = "read"
) -> Result:
    shown = without_secrets(address)
    waits = RETRY_SECONDS if waits_seconds is None else waits_seconds
    for number, seconds in enumerate((*waits, None)):
        try:
            return attempt()
        except ConvoyError:
            raise
        except Exception as exc:  # every store's client has errors of its own
            said = without_secrets(str(exc)) or type(exc).__name__
            if _is_gone(exc):
                raise FileNotFoundError(shown) from exc
            if isinstance(exc, PermissionError):
                raise StorageError(
                    f"{shown} may not be {doing} ({said}); check the credentials in the environment."
                ) from exc
            if seconds is None:
                raise StorageError(
                    f"{shown} cannot be {doing}: {said} ({len(waits) + 1} attempts); "
                    "run the same command again when the store answers."
                ) from exc
            time.sleep(seconds * (0.5 + _part_of_one(address, number)))
    raise AssertionError("the last attempt returns or raises")


def _part_of_one(address: str, attempt: int) -> float:
    """In [0, 1): processes that failed together come back apart, each always at the same moment."""
    key = f"{socket.gethostname()} {os.getpid()} {attempt} {address}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little") / 2**32


def _is_gone(exc: Exception) -> bool:
    """HTTP's client says "not found" of every answer that is no success."""
    status = getattr(exc.__cause__, "status", None)
    return isinstance(exc, FileNotFoundError) and (status is None or status in GONE_STATUSES)

"""The folder in which a shard set is made. It outlives a kill: what was finished is recognised, the rest done again.

A finished part has a seal, a small file written last that holds the sha256 of the part and whatever else its maker
wants back. The folder's name is a digest of everything that decides the parts; work for anything else is removed.
"""

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path

FORMAT_VERSION = 5
"""Goes up with every change of what the parts hold."""

_UNFINISHED = ".unfinished-"


def open_work(base: Path, *decides: object) -> Path:
    """The folder for this work under `base`, made or found as the last run left it."""
    text = json.dumps([FORMAT_VERSION, *map(str, decides)])
    work = base / hashlib.sha256(text.encode()).hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)
    for other in base.iterdir():
        if other.is_dir() and other != work:
            shutil.rmtree(other)
    for leftover in work.rglob(f"*{_UNFINISHED}*"):
        leftover.unlink()
    return work


def unfinished(path: Path) -> Path:
    """Where to write what is to become `path`: nobody else's, not even an orphan's of a killed run, on any machine."""
    return path.with_name(f"{path.name}{_UNFINISHED}{socket.gethostname()}-{os.getpid()}")


def finish(path: Path) -> None:
    """Gives what was written the name that it is to have."""
    unfinished(path).replace(path)


def write_seal(path: Path, content: dict) -> None:
    unfinished(path).write_text(json.dumps(content), encoding="utf-8")
    finish(path)


def read_seal(path: Path) -> dict | None:
    """None when there is no whole one."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None

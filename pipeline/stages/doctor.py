"""What this machine and this folder lack for a run, found in under two seconds and without loading a framework.

Each check returns one Finding. They run side by side, because a server that does not answer costs its whole timeout.
"""

import glob
import http.client
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline import params, stores
from pipeline.errors import ConvoyError, ParamsError
from pipeline.stages import layout
from pipeline.wording import counted

ANSWER_SECONDS = 1.0
LITTLE_MEMORY_BYTES = 4e9  # torch, Ray and MLflow together, before the first image
LITTLE_SHARED_MEMORY_BYTES = 1e9  # Ray moves its object store to the disk below what it asks for
LITTLE_DISK_BYTES = 5e9
NO_DISK_BYTES = 0.5e9

EXPLAINED = "correct it; pipeline/sections.py and training_sections.py say what each key means"

STYLES = {"ok": "green", "look": "yellow", "mend": "red"}


@dataclass(frozen=True)
class Finding:
    """`look` is worth knowing and does not stop a run; `mend` does."""

    check: str
    state: Literal["ok", "look", "mend"]
    found: str
    remedy: str = ""


def doctor() -> bool:
    """Prints a table of what was looked at; False when something must be mended before a run."""
    checks = [python, packages, jpeg, memory, shared_memory, disk, gpu, git, dvc]
    try:
        given = params.read(layout.PARAMS)
    except ParamsError as exc:
        findings = [Finding("params.yaml", "mend", str(exc), EXPLAINED)]
    else:
        findings = [Finding("params.yaml", "ok", f"{len(given)} sections")]
        checks += [partial(source, given["data"]), partial(ranks, given["cluster"]), partial(ray, given["cluster"])]
        checks += [partial(mlflow, given["tracking"], given["cluster"])]
    with ThreadPoolExecutor(len(checks)) as pool:
        findings += pool.map(lambda check: check(), checks)
    _print(findings)
    return all(finding.state != "mend" for finding in findings)


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        return Finding("python", "mend", version, "Convoy is tested on 3.11 alone: run `make setup` with it")
    return Finding("python", "ok", version)


def packages(lock: Path = Path("requirements.lock")) -> Finding:
    """The installed versions against the lock's."""
    if not lock.exists():
        return Finding("packages", "look", f"no {lock} here", "run in the repository's root")
    installed = {_normal(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    locked = _locked(lock.read_text(encoding="utf-8"))
    wrong = [
        f"{name} {installed.get(name, 'missing')} instead of {' or '.join(filter(None, versions))}"
        for name, versions in locked.items()
        if installed.get(name) not in versions
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Finding("packages", "mend", ", ".join(wrong[:3]) + more, "run `make setup`")
    return Finding("packages", "ok", f"{len(locked)} as locked")


def _locked(lock: str) -> dict[str, list[str | None]]:
    """Versions by name; None is among them where a marker (another platform's, say) may leave the package out."""
    versions: dict[str, list[str | None]] = {}
    for line in re.finditer(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(\s*;)?", lock, re.MULTILINE):
        versions.setdefault(_normal(line[1]), []).extend([line[2], None] if line[3] else [line[2]])
    return versions


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def jpeg() -> Finding:
    from pipeline.imaging import crops, region

    is_used, why = region.native()
    if not is_used:
        remedy = "images are decoded whole: the same pixels, slower; docs/performance.md says what to install"
        return Finding("jpeg", "look", f"no native decoding: {why}", remedy)
    cuts, how = crops.native()
    return Finding("jpeg", "ok", f"native decoding by {why}, " + (f"crops by {how}" if cuts else f"no crops: {how}"))


def memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available
    if free < LITTLE_MEMORY_BYTES:
        return Finding("memory", "look", f"{_gb(free)} free", f"a run wants {_gb(LITTLE_MEMORY_BYTES)} and more")
    return Finding("memory", "ok", f"{_gb(free)} free")


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    total = shutil.disk_usage(folder).total if folder.exists() else 0
    if total < LITTLE_SHARED_MEMORY_BYTES:
        remedy = "Ray will use the slower disk; give a container --shm-size=2g"
        return Finding("shared memory", "look", f"{folder} has {_gb(total)}", remedy)
    return Finding("shared memory", "ok", f"{folder} has {_gb(total)}")


def disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    state = "mend" if free < NO_DISK_BYTES else "look" if free < LITTLE_DISK_BYTES else "ok"
    remedy = "shards take about as much room as the images" if state != "ok" else ""
    return Finding("disk", state, f"{_gb(free)} free in {Path.cwd()}", remedy)


def gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("gpu", "ok", "none: training runs on the processor")
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return Finding("gpu", "look", "nvidia-smi does not answer", "try `nvidia-smi`; the driver may be waking up")
    except (subprocess.CalledProcessError, OSError) as exc:
        said = (getattr(exc, "stdout", "") or str(exc)).strip().partition("\n")[0]
        return Finding("gpu", "mend", said, "the driver is broken: repair it or take nvidia-smi off PATH")
    return Finding("gpu", "ok", "; ".join(done.stdout.splitlines()))


def git() -> Finding:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if done is None or done.returncode:
        return Finding("git", "look", "no commit here", "a run cannot name its code without one")
    return Finding("git", "ok", f"commit {done.stdout.strip()}")


def dvc() -> Finding:
    missing = [name for name in (".dvc/config", "dvc.yaml") if not Path(name).exists()]
    if missing:
        return Finding("dvc", "mend", f"no {' and no '.join(missing)} here", "run in the repository's root")
    return Finding("dvc", "ok", "dvc.yaml and .dvc/config")


def source(data: params.Data) -> Finding:
    """Whether data.source is there; what is in it is for `scan` to say."""
    if data.source == "demo":
        return Finding("data.source", "ok", "demo: drawn by `convoy scan`")
    if "://" in data.source:
        return Finding("data.source", "look", f"{stores.without_secrets(data.source)}; not looked at here")
    path = Path(next(iter(glob.glob(data.source, recursive=True)), data.source))  # noqa: PTH207 - a pattern may be absolute
    try:
        path.stat()
        is_empty = path.is_dir() and next(path.iterdir(), None) is None
    except OSError as exc:
        return Finding("data.source", "mend", f"{path}: {exc.strerror}", "set data.source to a folder or a table")
    if is_empty:
        return Finding("data.source", "mend", f"{path} is empty", "put one folder of images for each class into it")
    return Finding("data.source", "ok", data.source)


def ranks(cluster: params.Cluster) -> Finding:
    num_cores = len(os.sched_getaffinity(0))
    at_least = f"{cluster.least_ranks} to " if cluster.least_ranks < cluster.most_ranks else ""
    found = f"{counted(num_cores, 'core')} for {at_least}{counted(cluster.most_ranks, 'rank')}"
    if cluster.address is None and cluster.least_ranks > num_cores:
        return Finding("cores", "look", found, f"on one machine without GPUs: cluster.num_workers: {num_cores} or less")
    return Finding("cores", "ok", found)


def ray(cluster: params.Cluster) -> Finding:
    if cluster.address is None:
        started = "no Ray: training in one process" if cluster.num_workers == 0 else "started on this machine"
        return Finding("ray", "ok", started)
    parts = urllib.parse.urlsplit(cluster.address if "://" in cluster.address else f"//{cluster.address}")
    remedy = "start it with `ray start --head`, or correct cluster.address"
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout=ANSWER_SECONDS):
            return Finding("ray", "ok", f"{cluster.address} answers")
    except (OSError, ValueError, TypeError) as exc:
        return Finding("ray", "mend", f"{cluster.address} does not answer ({exc})", remedy)


def mlflow(tracking: params.Tracking, cluster: params.Cluster) -> Finding:
    from pipeline.tracking import address

    try:
        uri = address.resolve(tracking.uri, Path(cluster.storage or "."))
    except ConvoyError as exc:
        return Finding("mlflow", "mend", str(exc), "correct tracking.uri or MLFLOW_TRACKING_URI")
    name = address.strip_credentials(uri)
    file = address.sqlite_file(uri)
    if file is not None:
        return _sqlite(file)
    if not uri.startswith(("http://", "https://")):
        return Finding("mlflow", "look", f"{name}; not looked at here")
    try:
        with urllib.request.urlopen(f"{name.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return Finding("mlflow", "ok", f"{name} answers")
    except (OSError, http.client.HTTPException) as exc:
        remedy = "start the server or correct tracking.uri; training itself does not need it"
        return Finding("mlflow", "look", f"{name} does not answer ({exc})", remedy)


def _sqlite(file: Path) -> Finding:
    if not file.exists():
        return Finding("mlflow", "ok", f"{file} will be made")
    with file.open("rb") as opened:
        if opened.read(16) != b"SQLite format 3\0":
            return Finding("mlflow", "mend", f"{file} is no sqlite database", "move it away")
    return Finding("mlflow", "ok", str(file))


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "state", "found", "what to do")
    for each in findings:
        table.add_row(each.check, Text(each.state, STYLES[each.state]), Text(each.found), Text(each.remedy))
    Console().print(table)

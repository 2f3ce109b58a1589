"""What both sharding benchmarks need: one run of the stage's functions, and the memory of a process tree."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.05


def shard_images(images: Path, out: Path, short_side_px: int | None, num_workers: int) -> None:
    """As the stages do it, scan to published; `out` gets the set and everything beside it."""
    from pipeline.sharding.audit import AuditRule
    from pipeline.sharding.build import ShardForm, SplitRule, build_shard_set
    from pipeline.sharding.manifest import Manifest
    from pipeline.sharding.resume import open_work
    from pipeline.sharding.scan import scan_source
    from pipeline.sharding.tables import TableColumns
    from pipeline.sharding.workers import LocalWorkers, start_server
    from pipeline.stages.publish import publishing

    start_server()
    by_folders = TableColumns("image", "label", None, None, ())
    scan_source(str(images), by_folders, out / "manifest.parquet", lambda count: None)
    manifest = Manifest(out / "manifest.parquet")
    work = open_work(out / ".work", str(images))
    with publishing(out / "shards") as [folder], LocalWorkers(num_workers) as workers:
        folder.mkdir()
        built = build_shard_set(
            folder, work, manifest, str(images), SplitRule(0.1, 0.1, 0), ShardForm(short_side_px, 90, 500),
            AuditRule(max_rejected_fraction=0.0, near_duplicate_bits=3, tiny_below_px=1, dark_below=0.0,
                      min_training_samples=1, policies={}), workers, _silent,
        )  # fmt: skip
    assert built.index.num_records == manifest.num_rows


def run_measured(command: list) -> dict:
    """What the command prints as its last line, with `peak_mb` of its tree: shared pages once, pages that the system
    merely keeps of files not at all."""
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    is_done, peak = threading.Event(), [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, is_done, peak))
    watcher.start()
    out, err = process.communicate()
    is_done.set()
    watcher.join()
    try:
        return json.loads(out.splitlines()[-1]) | {"peak_mb": round(peak[0] / 1e6)}
    except (IndexError, ValueError):
        return {"failed": (err.strip().splitlines() or ["no output"])[-1][-200:]}


def _watch(pid: int, is_done: threading.Event, peak: list[int]) -> None:
    while not is_done.wait(SAMPLE_SECONDS):
        total = 0
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            for each in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
        peak[0] = max(peak[0], total)


@contextlib.contextmanager
def _silent(doing: str, total: int) -> Iterator:
    yield lambda count: None

"""A program that shards a project over and over, kills itself doing it, and says what was left; see fault row 13.

Arguments: the project, the number of kills, the number of worker processes.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import data_project
from image_folders import files_of

import pipeline.sharding.build
import pipeline.sharding.scan  # noqa: F401 - before the processes part, so that the kills meet work and not imports
from pipeline.stages import layout

CHANGES = {"samples_per_shard": 50, "short_side_px": 32}


def start(project: Path, num_workers: int) -> int:
    """The process that shards. The lock, the pools and the threads are all its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            data_project.stages(project, num_workers=num_workers, **CHANGES)
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    project, num_kills, num_workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.chdir(project)
    started = time.monotonic()
    assert os.waitpid(start(project, num_workers), 0)[1] == 0
    seconds, whole = time.monotonic() - started, files_of(layout.SHARDS)
    shutil.rmtree(layout.SHARDS)
    kills = rounds = 0
    moments = random.Random(0)
    while kills < num_kills or not layout.SHARDS.exists():
        child = start(project, num_workers)
        if kills < num_kills:
            time.sleep(moments.uniform(0, seconds / 2))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        kills += os.WIFSIGNALED(status)
        if layout.SHARDS.exists():
            assert files_of(layout.SHARDS) == whole, f"after {kills} kills"
            rounds += 1
            if kills < num_kills:
                shutil.rmtree(layout.SHARDS)
        else:
            assert os.WIFSIGNALED(status)
    print(f"{kills} kills, {rounds} sets, {len(whole)} files")


if __name__ == "__main__":
    main()

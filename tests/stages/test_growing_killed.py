"""A growth that is killed: at every point it leaves the old set or the new one, whole, and the next run ends it."""

import os
import shutil
import sys
from pathlib import Path

import data_project
import pytest
from image_folders import files_of, fill, jpeg

from pipeline.sharding import build
from pipeline.sharding.growth import carry_shards
from pipeline.stages import layout
from pipeline.stages.verify import verify

STOPPED = 9
CHANGES = {"samples_per_shard": 6, "short_side_px": None}


def in_a_child(action) -> int:
    """Exit code of a forked process that runs `action`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stopping_at(step: int) -> None:
    """Ends this process, as by SIGKILL, just before its `step`-th change of what lies in folders."""
    remaining = step

    def watch(event: str, arguments: tuple) -> None:
        nonlocal remaining
        changes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "ctypes.dlsym")
        if changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            remaining -= 1
            if remaining == 0:
                os._exit(STOPPED)

    sys.addaudithook(watch)


def stages() -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - of a process that ends at once
    data_project.stages(Path.cwd(), **CHANGES)


def stages_until(step: int) -> None:
    """Stops at that change after the former shards are looked at; what was before touched none of them."""

    def carry(*arguments):
        stopping_at(step)
        return carry_shards(*arguments)

    build.carry_shards = carry
    data_project.scan = lambda *_: None  # it was done
    os.fsync = lambda _: None  # which a kill, unlike a power cut, cannot tell from the real one
    stages()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project whose set is to grow by three images and to shrink by one; its old and its new files beside it."""
    monkeypatch.chdir(tmp_path)
    contents = {f"photos/{'ab'[n % 2]}/{n}.jpg": jpeg(n, 8, 8) for n in range(12)}
    fill(tmp_path, contents)
    assert in_a_child(stages) == 0
    shutil.copytree(layout.SHARDS, "old")
    Path("photos/a/4.jpg").unlink()
    fill(tmp_path, {f"photos/b/new{n}.jpg": jpeg(n + 100, 8, 8) for n in range(3)})
    return tmp_path


def test_at_every_point_it_is_the_old_set_or_the_new_one(project):
    old = files_of(Path("old"))
    assert in_a_child(stages) == 0
    new = files_of(layout.SHARDS)
    assert {name: new[name] for name in old if name.endswith(".tar")} == {
        name: data for name, data in old.items() if name.endswith(".tar")
    }
    assert new.keys() > old.keys()
    code, step, seen = STOPPED, 0, []
    while code == STOPPED:
        step += 1
        shutil.rmtree(layout.SHARDS)
        shutil.rmtree(layout.SHARDS_WORK, ignore_errors=True)
        shutil.copytree("old", layout.SHARDS)
        code = in_a_child(lambda step=step: stages_until(step))
        left = files_of(layout.SHARDS)
        assert left in (old, new), f"stopped at {step}"
        seen.append(left == new)
        if step % 8 == 0 and code == STOPPED:
            assert in_a_child(stages) == 0
            assert files_of(layout.SHARDS) == new, f"taken up after {step}"
    assert code == 0
    assert seen == sorted(seen), "once it is the new set it stays so"
    assert 15 < seen.index(True) < len(seen) - 1


def test_what_a_killed_growth_left_is_taken_up_and_never_written_to(project):
    """The former tars are linked, not copied: nothing may write into them."""
    before = {path: path.stat().st_ino for path in layout.SHARDS.glob("*/*.tar")}

    def stopped() -> None:
        build.carry_shards = lambda *arguments: (carry_shards(*arguments), os._exit(STOPPED))
        stages()

    assert in_a_child(stopped) == STOPPED
    assert files_of(layout.SHARDS) == files_of(Path("old"))
    assert in_a_child(stages) == 0
    assert {path: path.stat().st_ino for path in before} == before
    assert {name: data for name, data in files_of(layout.SHARDS).items() if name.endswith(".tar")}.items() >= {
        name: data for name, data in files_of(Path("old")).items() if name.endswith(".tar")
    }.items()
    verify()

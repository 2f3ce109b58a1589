import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import ArtifactError, StorageError
from pipeline.loading.cache import Cache, default_folder

SIZE = 1000
DATA = {number: bytes([number]) * SIZE for number in range(8)}
NAMES = {number: f"{hashlib.sha256(data).hexdigest()}.tar" for number, data in DATA.items()}


class Files:
    """A cache whose fetches are written down."""

    def __init__(self, folder: Path, limit_bytes: int | None = None):
        self.cache = Cache(folder, limit_bytes)
        self.fetched: list[int] = []

    def hold(self, number: int, urgent: bool = True) -> Path | None:
        def fetch(path: Path) -> None:
            self.fetched.append(number)
            path.write_bytes(DATA[number])

        return self.cache.hold(NAMES[number], SIZE, fetch, lambda path: is_whole(number, path), urgent=urgent)

    def release(self, number: int) -> None:
        self.cache.release(NAMES[number])

    def use(self, *numbers: int) -> None:
        for number in numbers:
            assert self.hold(number).read_bytes() == DATA[number]
            self.release(number)

    def here(self) -> set[int]:
        return {number for number, name in NAMES.items() if (self.cache.folder / name).exists()}


def is_whole(number: int, path: Path) -> bool:
    return path.read_bytes() == DATA[number]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "cache"


HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_shard_cache import DATA, NAMES, SIZE, is_whole
from pipeline.loading.cache import Cache
def fetch(path):
    if sys.argv[2] == "fetching":
        print("fetching", flush=True)
        sys.stdin.read()
    path.write_bytes(DATA[0])
Cache(Path(sys.argv[1]), None).hold(NAMES[0], SIZE, fetch, lambda path: is_whole(0, path), urgent=True)
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def another_process(folder, repository):
    """Starts a process that fetches file 0 for ever, or holds it."""
    started = []

    def start(what: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, folder, what, Path(__file__).parent],
            cwd=repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline().strip() == what
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_file_is_fetched_once_and_stays_over_a_restart(folder):
    files = Files(folder)
    files.use(0, 1, 0)
    assert files.fetched == [0, 1]
    files.cache.close()
    again = Files(folder)
    again.use(0, 1)
    assert again.fetched == []


def test_many_threads_that_want_one_file_fetch_it_once(folder):
    files = Files(folder)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: files.use(3), range(40)))
    assert files.fetched == [3]


def test_a_file_that_was_tampered_with_is_fetched_again(folder):
    Files(folder).use(0)
    (folder / NAMES[0]).write_bytes(DATA[1])
    again = Files(folder)
    again.use(0)
    assert again.fetched == [0]


def test_the_oldest_go_first_and_none_that_is_in_use(folder):
    files = Files(folder, limit_bytes=3 * SIZE)
    files.use(0, 1)
    files.hold(2)
    files.use(0)  # now 1 is the oldest
    files.use(3)
    assert files.here() == {0, 2, 3}
    files.use(4, 5)
    assert files.here() == {2, 4, 5}
    files.release(2)
    files.use(0, 1)
    assert files.here() == {0, 1, 2}, "just let go, so it is the newest of the three that were there"


def test_without_room_what_is_not_urgent_waits_and_what_is_takes_it(folder):
    files = Files(folder, limit_bytes=2 * SIZE)
    files.hold(0)
    files.hold(1)
    assert files.hold(2, urgent=False) is None
    assert files.here() == {0, 1}
    assert files.hold(2) is not None
    assert files.here() == {0, 1, 2}
    for number in (0, 1, 2):
        files.release(number)
    assert files.hold(3, urgent=False) is not None
    assert len(files.here()) == 2, "back within the limit"


def test_a_file_that_another_process_uses_is_not_removed(folder, another_process):
    holder = another_process("holding")
    files = Files(folder, limit_bytes=SIZE)
    files.use(1)
    assert files.here() == {0, 1}
    holder.kill()
    holder.wait()
    files.use(2)
    assert files.here() == {2}, "its lock went with it"


def test_a_file_that_another_process_fetches_is_waited_for(folder, another_process):
    fetcher = another_process("fetching")
    files = Files(folder)
    with ThreadPoolExecutor(1) as executor:
        held = executor.submit(files.hold, 0)
        assert fetcher.poll() is None
        fetcher.stdin.close()
        assert held.result(timeout=30).read_bytes() == DATA[0]
    assert files.fetched == []


def test_a_fetch_that_was_killed_is_taken_over_and_its_remains_go(folder, another_process):
    fetcher = another_process("fetching")
    assert [path.name for path in folder.glob("*.partial")] == [f"{NAMES[0]}.partial"]
    files = Files(folder, limit_bytes=2 * SIZE)
    os.kill(fetcher.pid, signal.SIGKILL)
    fetcher.wait()
    files.use(1, 2)
    assert files.here() == {1, 2}, "the remains made room"
    assert not list(folder.glob("*.partial"))
    files.use(0)
    assert files.fetched == [1, 2, 0]


def test_a_failed_fetch_leaves_nothing_and_gives_its_locks_up(folder):
    files = Files(folder)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise StorageError("gone")

    with pytest.raises(StorageError, match="gone"):
        files.cache.hold(NAMES[0], SIZE, fail, lambda path: True, urgent=True)
    assert [path.name for path in folder.iterdir()] == [".locks"]
    files.use(0)


def test_whoever_comes_after_the_close_is_told_and_a_late_release_is_nothing(folder):
    files = Files(folder, 900)
    files.hold(0)
    with files.cache.sharing() as share:
        files.cache.close()
        for late in (lambda: files.hold(1), share):
            with pytest.raises(StorageError, match=r"shard cache .*/cache was closed while a file was waited for\."):
                late()
    files.release(0)


def test_a_fetch_that_the_close_ends_ends_as_the_fetch_does(folder):
    """It runs in a thread of its own, which anything else would end with a traceback."""
    cache = Cache(folder, None)

    def fetch(path: Path) -> None:
        cache.close()
        raise StorageError("given up")

    with pytest.raises(StorageError, match="given up"):
        cache.hold(NAMES[0], SIZE, fetch, lambda path: True, urgent=False)


def test_those_who_fetch_ahead_share_the_limit(folder):
    one, other = Files(folder, 900), Files(folder, 900)
    with one.cache.sharing() as mine:
        assert mine() == 900
        with other.cache.sharing() as others:
            assert (mine(), others()) == (450, 450)
        assert mine() == 900
    with Files(folder).cache.sharing() as unlimited:
        assert unlimited() is None


def test_threads_and_limits_in_any_interleaving(folder):
    """What a holder sees is whole as long as it holds it, whatever else is fetched and removed."""
    caches = [Files(folder, limit_bytes=3 * SIZE) for _ in range(2)]
    wrong = []

    def use(seed: int) -> None:
        for step in range(60):
            number = (seed * 7 + step * (seed + 1)) % len(DATA)
            files = caches[seed % 2]
            path = files.hold(number, urgent=step % 3 > 0)
            if path is not None:
                if path.read_bytes() != DATA[number]:
                    wrong.append((seed, step))
                files.release(number)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(caches[0].here()) <= 3 + 6


@pytest.mark.parametrize("name", ["../x.tar", "x.tar", f"{'a' * 64}.sh", f"{'A' * 64}.tar"])
def test_a_name_that_is_no_digest_is_refused(folder, name):
    with pytest.raises(ArtifactError, match="is no name of a cached file; the index was changed"):
        Cache(folder, None).hold(name, 1, lambda path: None, lambda path: True, urgent=True)


def test_a_folder_that_cannot_be_used_is_told_with_the_way_out(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"The shard cache .*/file/cache cannot be used \(.*name a folder .* CONVOY"):
        Cache(tmp_path / "file" / "cache", None)


def test_where_the_cache_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "a b"))
    assert default_folder() == tmp_path / "a b"
    monkeypatch.delenv("CONVOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "convoy"
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert default_folder().name == f"convoy-{os.getuid()}"

"""Shard sets whose files lie at an address, and a store over HTTP that does to a request what a test says."""

import contextlib
import http.server
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.artifacts import Index, Shard


def objects_of(index_path: Path) -> dict[str, Path]:
    """What a store has to hold of a shard set: its files by the names of their objects."""
    files = {}
    for shard in shards_of(index_path):
        files[shard.tar_object] = index_path.parent / f"{shard.name}.tar"
        files[shard.table_object] = index_path.parent / f"{shard.name}.npy"
    return files


def shards_of(index_path: Path) -> list[Shard]:
    return [shard for shards in Index.read(index_path, "shard").splits.values() for shard in shards]


def move(index_path: Path, location: str, put: Callable[[str, bytes], None]) -> None:
    """Takes the files from beside the index and gives them to `put`; the index says where they are."""
    for name, path in objects_of(index_path).items():
        put(name, path.read_bytes())
        path.unlink()
    Index.read(index_path, "shard").model_copy(update={"location": location}).write(index_path)


class Store(http.server.ThreadingHTTPServer):
    """Objects by name. `fault(name, times)` says what goes wrong with an object's request, the first being `times` 1: a
    status, "short" (a shorter body than it said), "reset" in mid-body, "flip" (another byte), "slow"; None is well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.objects: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()
        self.order: list[str] = []
        self.fault: Callable[[str, int], int | str | None] = lambda name, times: None
        self.go_on = threading.Event()
        """What a "slow" answer waits for."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/set"


@contextlib.contextmanager
def store() -> Iterator[Store]:
    server = Store()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.server.asked[name] += 1
        self.server.order.append(name)
        fault = self.server.fault(name, self.server.asked[name])
        data = self.server.objects.get(name)
        if isinstance(fault, int) or data is None:
            self._send(fault or 404, 0, b"")
            return
        first, _, last = self.headers.get("Range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        if fault == "slow":
            self.server.go_on.wait(60)
        if fault == "flip":
            part = bytes([part[0] ^ 1]) + part[1:]
        self._send(206, len(part), part[: len(part) // 2] if fault in ("short", "reset") else part)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()

    def _send(self, status: int, num_bytes: int, body: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", str(num_bytes))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

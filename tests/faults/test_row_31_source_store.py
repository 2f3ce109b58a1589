"""Row 31, on the way into shards: the store that holds the images answers 503, breaks off, is gone."""

import http.server
import threading
from collections import Counter
from pathlib import Path

import pytest
from image_folders import build, jpeg

from pipeline import stores
from pipeline.errors import StorageError
from pipeline.sharding.tables import TableColumns

TABLE = TableColumns("image", "label", None, None, ())
NUM_IMAGES = 40


class Store(http.server.BaseHTTPRequestHandler):
    """Serves /<number>.jpg; its server says what goes wrong with a request, by the times the object was asked for."""

    def do_HEAD(self) -> None:
        self._answer(200, len(self._data()), b"")

    def do_GET(self) -> None:
        asked = self.server.asked
        asked[self.path] += 1
        fault = self.server.fault(self.path, asked[self.path])
        data = self._data()
        if fault == "short":
            self._answer(200, len(data), data[: len(data) // 2])
        elif fault:
            self._answer(fault, 0, b"")
        else:
            self._answer(200, len(data), data)

    def _data(self) -> bytes:
        return jpeg(int(Path(self.path).stem))

    def _answer(self, status: int, num_bytes: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(num_bytes))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", (0, 0, 0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.asked, server.fault = Counter(), lambda path, times: None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    lines = [f"http://127.0.0.1:{server.server_port}/{n}.jpg,{'ab'[n % 2]}" for n in range(NUM_IMAGES)]
    server.table = tmp_path / "images.csv"
    server.table.write_text("\n".join(["image,label", *lines]))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def tars_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.tar")}


def test_503s_and_short_bodies_leave_the_same_shards(store, tmp_path):
    build(store.table, tmp_path / "calm", columns=TABLE)
    store.asked.clear()
    store.fault = lambda path, times: {1: 503, 2: "short"}.get(times)
    build(store.table, tmp_path / "stormy", columns=TABLE)
    assert len(tars_of(tmp_path / "calm")) > 3
    assert tars_of(tmp_path / "stormy") == tars_of(tmp_path / "calm")


def test_an_object_that_is_gone_is_a_reject(store, tmp_path):
    store.fault = lambda path, times: 404 if path == "/7.jpg" else None
    built = build(store.table, tmp_path / "shards", columns=TABLE)
    assert [(Path(reject.path).name, reject.reason) for reject in built.rejects] == [("7.jpg", "unreadable_file")]
    assert built.audit.num_samples == NUM_IMAGES - 1


def test_a_store_that_stays_down_stops_the_stage_and_names_the_object(store, tmp_path):
    store.fault = lambda path, times: 503 if path == "/7.jpg" else None
    with pytest.raises(StorageError, match=r"http://.*/7.jpg cannot be read: .*\(4 attempts\)"):
        build(store.table, tmp_path / "shards", columns=TABLE)
    assert store.asked["/7.jpg"] == 4
    assert not (tmp_path / "shards/index.json").exists()

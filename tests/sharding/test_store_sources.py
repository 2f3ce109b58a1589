"""Sources behind addresses: the same records as from a folder, and the same bytes in the shards."""

import http.server
import threading
from multiprocessing import forkserver
from pathlib import Path

import fsspec
import image_folders
import pytest
from image_folders import BY_FOLDERS, build, files_of, jpeg, two_classes
from s3_server import environment, s3_server

from pipeline import stores
from pipeline.errors import ImageError, SourceError, StorageError
from pipeline.sharding import build as build_module
from pipeline.sharding.reading import read_image
from pipeline.sharding.scan import image_root
from pipeline.sharding.tables import TableColumns

TABLE = TableColumns("image", "label", None, None, ())


@pytest.fixture(scope="module")
def server():
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server, monkeypatch, request):
    """The address of a bucket of its own on an S3 server."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    stores._filesystem.cache_clear()
    fsspec.filesystem("s3").clear_instance_cache()
    address = f"s3://b{abs(hash(request.node.nodeid)):x}"
    fsspec.filesystem("s3").mkdir(address)
    yield address
    stores._filesystem.cache_clear()
    fsspec.filesystem("s3").clear_instance_cache()


def put(address: str, contents: dict[str, bytes]) -> str:
    store, path = fsspec.core.url_to_fs(address)
    for name, data in contents.items():
        store.pipe_file(f"{path}/{name}", data)
    return address


def scan(source: str, columns: TableColumns = BY_FOLDERS) -> tuple[list[dict], dict[str, int]]:
    manifest, counts = image_folders.scan(source, columns)
    return manifest.to_pylist(), counts.ignored


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return two_classes(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory) -> Path:
    shards = tmp_path_factory.mktemp("built") / "shards"
    build(folder, shards)
    return shards


def contents_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bucket_is_sharded_to_the_same_bytes_as_a_folder(bucket, folder, tmp_path):
    put(bucket, contents_of(folder))
    build(folder, tmp_path / "local")
    forkserver._forkserver._stop()  # it would hand the environment that it was started in to the workers
    build(f"{bucket}/", tmp_path / "remote", num_workers=2)
    assert len(files_of(tmp_path / "local")) > 10
    assert files_of(tmp_path / "local") == files_of(tmp_path / "remote")


def test_what_a_bucket_holds_is_found_or_counted(bucket):
    extra = {"notes.txt": b"", "a/notes.txt": b"", "a/._1.jpg": b"", "a/.cache/2.jpg": b"x", "a/deep/er/3.png": b"xyz"}
    put(f"{bucket}/set", {"a/1.jpg": b"x", "b/ü 1.JPG": b"xx", **extra})
    rows, ignored = scan(f"{bucket}/set")
    assert [(row["path"], row["class_name"], row["num_bytes"]) for row in rows] == [
        ("a/1.jpg", "a", 1),
        ("a/deep/er/3.png", "a", 3),
        ("b/ü 1.JPG", "b", 2),
    ]
    assert ignored == {"hidden": 2, "outside_a_class": 1, "unknown_extension": 1}
    put(f"{bucket}/set", {"a/1.jpg": b"y"})
    again, _ = scan(f"{bucket}/set")
    assert [new["stamp"] == old["stamp"] for new, old in zip(again, rows, strict=True)] == [False, True, True]


def test_split_folders_of_a_bucket_fix_the_split(bucket):
    put(bucket, {f"{split}/{label}/1.jpg": b"x" for split in ("train", "val") for label in "ab"})
    rows, _ = scan(bucket)
    assert [(row["path"], row["split"]) for row in rows] == [
        ("train/a/1.jpg", "train"), ("train/b/1.jpg", "train"),
        ("val/a/1.jpg", "validation"), ("val/b/1.jpg", "validation"),
    ]  # fmt: skip


def test_images_without_folders_in_a_bucket_are_refused(bucket):
    with pytest.raises(SourceError, match="holds 1 images and no folders"):
        scan(put(bucket, {"1.jpg": b"x"}))
    with pytest.raises(SourceError, match="holds no images"):
        scan(f"{bucket}/nothing")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_in_a_bucket_names_its_images(bucket, folder, suffix):
    names = sorted(contents_of(folder))
    put(f"{bucket}/else", {"where.jpg": jpeg(101)})
    images = [*names, f"{bucket}/else/where.jpg"]
    labels = [*(name[:3] for name in names), "dog"]
    lines = {
        "csv": ["image,label", *(f"{image},{label}" for image, label in zip(images, labels, strict=True))],
        "jsonl": [f'{{"image": "{i}", "label": "{label}"}}' for i, label in zip(images, labels, strict=True)],
    }[suffix]
    put(f"{bucket}/set", contents_of(folder) | {f"t.{suffix}": "\n".join(lines).encode()})
    rows, _ = scan(f"{bucket}/set/t.{suffix}", TABLE)
    assert len(rows) == 61
    root = image_root(f"{bucket}/set/t.{suffix}")
    data = contents_of(folder) | {f"{bucket}/else/where.jpg": jpeg(101)}
    assert {row["path"]: read_image(root, row["path"]) for row in rows} == data
    assert all(row["stamp"] and row["num_bytes"] == len(data[row["path"]]) for row in rows)


def test_a_table_that_names_what_is_not_there(bucket):
    put(bucket, {"t.csv": b"image,label\ngone.jpg,a\n"})
    with pytest.raises(SourceError, match=r"t.csv, row 1 names s3://.*/gone.jpg, which does not exist"):
        scan(f"{bucket}/t.csv", TABLE)
    with pytest.raises(SourceError, match=r"other.csv does not exist; check the address"):
        scan(f"{bucket}/other.csv", TABLE)


@pytest.mark.parametrize("pattern", ["", "/train/*.tar", "/train/train-000000.tar"])
def test_tars_in_a_bucket(bucket, shards, pattern):
    put(bucket, {name: data for name, data in contents_of(shards).items() if name.endswith(".tar")})
    rows, _ = scan(f"{bucket}{pattern}")
    here, _ = scan(f"{shards}{pattern}")
    assert [row["path"] for row in rows] == [row["path"] for row in here]
    assert len(rows) >= 8
    roots = image_root(f"{bucket}{pattern}"), image_root(f"{shards}{pattern}")
    assert read_image(roots[0], rows[3]["path"]) == read_image(roots[1], rows[3]["path"])


def test_other_stores_need_nothing_of_their_own():
    put("memory://set", {"a/1.jpg": jpeg(1), "b/2.jpg": jpeg(2)})
    rows, _ = scan("memory://set")
    assert [read_image(image_root("memory://set"), row["path"]) for row in rows] == [jpeg(1), jpeg(2)]


def test_an_object_that_is_gone_is_a_reject_and_a_large_one_is_not_read(bucket, monkeypatch):
    put(bucket, {"a/1.jpg": bytes(100)})
    with pytest.raises(ImageError, match="No such file") as caught:
        read_image(bucket, "a/2.jpg")
    assert caught.value.reason == "unreadable_file"
    monkeypatch.setattr("pipeline.sharding.reading.MAX_IMAGE_BYTES", 99)
    with pytest.raises(ImageError, match="The file has 100 bytes, more than the 99") as caught:
        read_image(bucket, "a/1.jpg")
    assert caught.value.reason == "too_many_bytes"


class Flaky(http.server.BaseHTTPRequestHandler):
    """Answers as the list in its server says, one entry a request; the last one goes on for ever."""

    def do_GET(self) -> None:
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.num_requests += 1
        data = jpeg(1)
        self.send_response(200 if answer == "short" else answer)
        self.send_header("Content-Length", str(len(data) if answer in (200, "short") else 0))
        self.end_headers()
        if answer in (200, "short"):
            self.wfile.write(data if answer == 200 else data[:50])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", (0, 0, 0))
    server = http.server.HTTPServer(("127.0.0.1", 0), Flaky)
    server.num_requests = 0
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("answers", [[200], [503, 200], ["short", 503, "short", 200]])
def test_what_a_moment_mends_is_tried_again(flaky, answers):
    flaky.answers = list(answers)
    assert read_image(f"http://127.0.0.1:{flaky.server_port}", "1.jpg") == jpeg(1)
    assert flaky.num_requests == len(answers)


@pytest.mark.parametrize("answer", [503, "short"])
def test_what_stays_broken_names_the_object_after_four_attempts(flaky, answer):
    flaky.answers = [answer]
    with pytest.raises(StorageError, match=r"http://127.*/1.jpg cannot be read: .* \(4 attempts\); run the same comm"):
        read_image(f"http://127.0.0.1:{flaky.server_port}", "1.jpg")
    assert flaky.num_requests == 4


def test_what_is_not_there_is_asked_for_once(flaky):
    flaky.answers = [404]
    with pytest.raises(ImageError, match="No such file"):
        read_image(f"http://127.0.0.1:{flaky.server_port}", "1.jpg")
    assert flaky.num_requests == 1


def test_an_address_that_is_not_there_is_named_without_its_secrets(flaky, tmp_path):
    flaky.answers = [404]
    host = f"127.0.0.1:{flaky.server_port}"
    (tmp_path / "t.csv").write_text(f"image,label\nhttp://me:hunter2@{host}/1.jpg?sig=hunter2,a\n")
    with pytest.raises(SourceError, match=f"row 1 names http://{host}/1.jpg, which does not exist") as caught:
        scan(str(tmp_path / "t.csv"), TABLE)
    assert "hunter2" not in str(caught.value)


def test_images_that_are_labelled_in_two_ways_are_named_without_secrets(tmp_path):
    put("memory://signed", {"1.jpg?sig=hunter2": b"x", "2.jpg?sig=hunter2": b"x"})
    lines = [
        f'{{"image": "memory://signed/{n}.jpg?sig=hunter2", "label": {label}}}' for n, label in ((1, 1), (2, "[1]"))
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        SourceError, match=r"signed/2.jpg with a list of classes and memory://signed/1.jpg with"
    ) as caught:
        scan(str(tmp_path / "t.jsonl"), TABLE)
    assert "hunter2" not in str(caught.value)


def test_an_image_that_changes_meanwhile_is_named_without_its_secrets(tmp_path, monkeypatch):
    names = [f"{number}.jpg?sig=hunter2" for number in range(60)]
    put("memory://changing", {name: jpeg(number) for number, name in enumerate(names)})
    rows = [f"memory://changing/{name},{number % 2}" for number, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["image,label", *rows]))
    real = build_module.plan_shards

    def plan_and_change(*args):  # after the hashing, before the writing
        put("memory://changing", dict.fromkeys(names, jpeg(12345)))
        return real(*args)

    monkeypatch.setattr(build_module, "plan_shards", plan_and_change)
    with pytest.raises(SourceError, match=r"memory://changing/\d+.jpg changed while it was being sharded") as caught:
        build(tmp_path / "t.csv", tmp_path / "shards", columns=TABLE)
    assert "hunter2" not in str(caught.value)


def test_tars_beside_folders_of_images_in_a_store_are_refused():
    put("memory://mixed", {"a.tar": b"", "cat/1.jpg": b"x"})
    with pytest.raises(SourceError, match=r"memory://mixed holds the tar a.tar and images in the folder cat/"):
        scan("memory://mixed")


def test_a_pattern_of_buckets_is_refused():
    with pytest.raises(SourceError, match=r"data.source=s3://b\*/a.tar leaves open which bucket is meant; name it"):
        scan("s3://b*/a.tar")


def test_what_may_not_be_read_is_said_at_once():
    attempts = []

    def refuse() -> None:
        attempts.append(1)
        raise PermissionError("Access Denied")

    with pytest.raises(StorageError, match=r"s3://b/x may not be read \(Access Denied\); check the credentials in the"):
        stores._retried(refuse, "s3://b/x")
    assert len(attempts) == 1


def test_a_tar_on_the_web(shards, monkeypatch):
    monkeypatch.chdir(shards)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        source = f"http://127.0.0.1:{server.server_port}/train/train-000000.tar"
        rows, _ = scan(source)
        here, _ = scan("train/train-000000.tar")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert [row["path"] for row in rows] == [row["path"] for row in here]

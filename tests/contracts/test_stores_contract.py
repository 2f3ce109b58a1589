"""What is said of an address never holds its secrets; what is sent arrives whole, or the store is named."""

from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import stores
from pipeline.artifacts import Shard
from pipeline.errors import SourceError, StorageError

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://bucket/set/a b.tar", "s3://bucket/set/a b.tar"),
        (f"https://me:{SECRET}@host:8000/a.tar?X-Amz-Signature={SECRET}&n=1", "https://host:8000/a.tar"),
        (f"503, message='Down', url='http://host/a.tar?sig={SECRET}'", "503, message='Down', url='http://host/a.tar'"),
        (f"(http://{SECRET}@host/a and https://host/b?t={SECRET})", "(http://host/a and https://host/b)"),
        ("is it there? a=b", "is it there? a=b"),
    ],
)
def test_secrets_are_cut_out_of_addresses_and_messages(text, shown):
    assert stores.without_secrets(text) == shown


def test_no_message_tells_the_secrets_of_an_address(monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", ())
    address = f"http://me:{SECRET}@127.0.0.1:9/a.tar?sig={SECRET}"  # nothing listens on the discard port
    with pytest.raises(StorageError, match=r"http://127.0.0.1:9/a.tar cannot be read: .*\(1 attempts\)") as caught:
        stores.read(address, 0, 1, lambda num_bytes: None)
    assert SECRET not in str(caught.value)
    with pytest.raises(SourceError, match="nostore://host cannot be opened") as caught:
        stores.read(f"nostore://me:{SECRET}@host/a", 0, 1, lambda num_bytes: None)
    assert SECRET not in str(caught.value)


def test_an_index_names_objects_by_their_content():
    shard = Shard(
        name="train/train-7",
        num_samples=1,
        num_bytes=1,
        sha256="ab" * 32,
        table_sha256="cd" * 32,
        class_counts=[1],
    )
    assert shard.tar_object == "ab" * 32 + ".tar"
    assert shard.table_object == "cd" * 32 + ".npy"


class Failing(MemoryFileSystem):
    """A store in memory that does to each upload what `faults` says; after them all is well."""

    store: ClassVar[dict] = {}
    faults: ClassVar[list[str]] = []
    sent: ClassVar[list[str]] = []

    def put_file(self, lpath, rpath, **kwargs):
        self.sent.append(rpath)
        fault = self.faults.pop(0) if self.faults else None
        if fault == "503":
            raise OSError("503 Slow Down")
        if fault == "refused":
            raise PermissionError("Access Denied")
        if fault == "no bucket":
            raise FileNotFoundError("The specified bucket does not exist")
        super().put_file(lpath, rpath, **kwargs)
        if fault == "cut":
            self.pipe_file(rpath, self.cat_file(rpath)[:-1])


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """Uploads five bytes; gives what arrived and how often they were sent."""
    monkeypatch.setattr(stores, "_filesystem", lambda protocol, server: Failing(skip_instance_cache=True))
    monkeypatch.setattr(stores, "RETRY_SECONDS", (0.0, 0.0))
    Failing.store, Failing.sent = {}, []
    path = tmp_path / "tar"
    path.write_bytes(b"12345")

    def upload(*faults: str) -> tuple[bytes, int]:
        Failing.faults, Failing.sent = list(faults), []
        stores.upload(path, "memory://bucket/photos/a.tar")
        return Failing().cat_file("/bucket/photos/a.tar"), len(Failing.sent)

    return upload


@pytest.mark.parametrize(("faults", "times"), [((), 1), (("503",), 2), (("cut", "503"), 3), (("cut",), 2)])
def test_a_file_arrives_whole(upload, faults, times):
    assert upload(*faults) == (b"12345", times)
    assert upload() == (b"12345", 1), "what lies there may be damaged"


def test_a_store_that_takes_nothing_is_named(upload):
    with pytest.raises(StorageError) as caught:
        upload("503", "cut", "503")
    assert str(caught.value) == (
        "memory://bucket/photos/a.tar cannot be written: 503 Slow Down (3 attempts); run the same command again when "
        "the store answers."
    )
    with pytest.raises(StorageError, match=r"may not be written \(Access Denied\); check the credentials in the envir"):
        upload("refused")
    Failing.store = {}
    with pytest.raises(
        StorageError, match=r"a.tar cannot be written: its bucket does not exist; make it, or name anot"
    ):
        upload("no bucket")


def test_waits_are_jittered_by_who_waits_for_what_and_not_by_chance(monkeypatch):
    waited = []
    monkeypatch.setattr(stores.time, "sleep", waited.append)

    def waits(address):
        waited.clear()
        with pytest.raises(StorageError, match=r"\(4 attempts\)"):
            stores.read(address, 0, 1, lambda num_bytes: None, waits_seconds=(1.0, 10.0, 100.0))
        return list(waited)

    first = waits("http://127.0.0.1:9/a")
    assert all(0.5 * wait <= seconds < 1.5 * wait for seconds, wait in zip(first, (1.0, 10.0, 100.0), strict=True))
    assert waits("http://127.0.0.1:9/a") == first
    assert waits("http://127.0.0.1:9/b") != first
    monkeypatch.setattr(stores.os, "getpid", lambda: 0)
    assert waits("http://127.0.0.1:9/a") != first

"""What is said of an address never holds its secrets."""

import pytest

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

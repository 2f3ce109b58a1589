"""Shards whose destination is a bucket: the same samples, only the index here, and it grows there."""

from multiprocessing import forkserver
from pathlib import Path

import data_project
import pytest
import s3_server
from image_folders import FORM, SPLIT_RULE, build, files_of, fill, jpeg, two_classes

from pipeline import stores
from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, StorageError
from pipeline.loading.read import SplitReader
from pipeline.loading.shelf import fetched_anew
from pipeline.sharding import write
from pipeline.sharding.build import ShardForm
from pipeline.sharding.compact import find_savings
from pipeline.sharding.index import all_shards
from pipeline.sharding.verify import verify_shard_set
from pipeline.stages import layout
from pipeline.stages.verify import verify


@pytest.fixture(scope="module")
def server():
    with s3_server.s3_server() as address:
        yield address


@pytest.fixture
def bucket(server, tmp_path, monkeypatch) -> str:
    """An empty one of the test's own, and a cache of its own for what is read from it."""
    import boto3
    import s3fs

    for name, value in s3_server.environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    forkserver._forkserver._stop()  # it would hand the environment that it was started in to the workers
    s3fs.S3FileSystem.clear_instance_cache()
    stores._filesystem.cache_clear()
    name = f"set-{abs(hash(str(tmp_path))):x}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/photos"


def verified(folder: Path) -> Index:
    return verify_shard_set(folder / "index.json", lambda count: None, fetched_anew)


def there(location: str) -> ShardForm:
    return FORM._replace(destination=location)


def beside_it(index: Index) -> Index:
    """The index as it would be if its shards lay beside it."""
    return index.model_copy(update={"location": None, "made_with": index.made_with | {"destination": None}})


def objects(location: str) -> dict[str, int]:
    return {each.name: each.num_bytes for each in stores.list_folder(location).objects}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_set_at_an_address_is_the_one_beside_its_index(bucket, tmp_path, num_workers):
    source = two_classes(tmp_path / "source")
    build(source, tmp_path / "beside")
    build(source, tmp_path / "shards", form=there(bucket), num_workers=num_workers)
    assert list(files_of(tmp_path / "shards")) == ["audit_pictures.json", "index.json"]
    index, beside = verified(tmp_path / "shards"), Index.read(tmp_path / "beside/index.json", "shard")
    assert index.location == bucket
    assert beside_it(index) == beside
    shards = all_shards(index.splits)
    assert len(objects(bucket)) == 3 * len(shards)
    assert {shard.tar_object: shard.num_bytes for shard in shards}.items() <= objects(bucket).items()
    reader = SplitReader(tmp_path / "shards/index.json", "train")
    assert reader.num_samples == index.num_samples("train")
    reader.close()


def test_it_grows_there_and_nothing_old_is_sent_again(bucket, tmp_path):
    source = two_classes(tmp_path / "source")
    build(source, tmp_path / "old", form=there(bucket))
    before = objects(bucket)
    (source / "cat/003.jpg").unlink()
    fill(source, {f"dog/new{n}.jpg": jpeg(1000 + n) for n in range(4)})
    built = build(source, tmp_path / "shards", form=there(bucket), former=tmp_path / "old")
    assert (built.why_anew, built.num_new, built.index.generation) == (None, 4, 1)
    assert verified(tmp_path / "shards") == built.index
    assert before.items() <= objects(bucket).items()
    assert sum(objects(bucket).values()) - sum(before.values()) < 0.5 * sum(before.values())
    build(two_classes(tmp_path / "there"), tmp_path / "beside_old")
    beside = build(source, tmp_path / "beside", former=tmp_path / "beside_old").index
    assert beside_it(built.index) == beside, "as it would have grown beside its index"


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "cut"])
@pytest.mark.parametrize("what", ["tar", "identities.npy", "npy"])
def test_where_objects_are_gone_or_cut_the_set_is_written_anew(bucket, tmp_path, what, is_gone):
    import boto3

    source = two_classes(tmp_path / "source")
    index = build(source, tmp_path / "old", form=there(bucket)).index
    shard = index.splits["train"][1]
    name = f"{shard.table_sha256 if what == 'npy' else shard.sha256}.{what}"
    place, _, folder = bucket.removeprefix("s3://").partition("/")
    store, where = boto3.client("s3"), {"Bucket": place, "Key": f"{folder}/{name}"}
    data = store.get_object(**where)["Body"].read()
    if is_gone:
        store.delete_object(**where)
    else:
        store.put_object(**where, Body=data[:-1])
    built = build(source, tmp_path / "shards", form=there(bucket), former=tmp_path / "old")
    assert built.why_anew.startswith(f"it is damaged ({bucket}/{name.split('.')[0]}")
    assert verified(tmp_path / "shards") == index
    assert objects(bucket)[name] == len(data)


def test_a_set_that_is_to_lie_elsewhere_is_written_anew(bucket, tmp_path):
    source = two_classes(tmp_path / "source")
    build(source, tmp_path / "old")
    assert (
        build(source, tmp_path / "new", form=there(bucket), former=tmp_path / "old").why_anew == "destination changed"
    )


def test_a_killed_run_is_taken_up_with_what_it_sent(bucket, tmp_path, monkeypatch):
    source, real, sent = two_classes(tmp_path / "source"), write.send_shard, []

    def stop(*arguments):
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(arguments)
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(write, "send_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            build(source, tmp_path / "shards", form=there(bucket))
    assert not files_of(tmp_path / "shards")
    written = []
    monkeypatch.setattr(write, "send_shard", lambda *arguments: (written.append(arguments), real(*arguments)))
    index = build(source, tmp_path / "shards", form=there(bucket)).index
    assert len(written) == len(all_shards(index.splits)) - 3
    assert verified(tmp_path / "shards") == index


def test_a_bucket_that_does_not_exist_is_named(bucket, tmp_path):
    message = r"s3://nowhere/photos/\w+.tar cannot be written: its bucket does not exist; make it, or name another"
    with pytest.raises(StorageError, match=message):
        build(two_classes(tmp_path / "source"), tmp_path / "shards", form=there("s3://nowhere/photos"))


def test_compacting_it_is_refused_with_the_way_out(bucket, tmp_path):
    build(two_classes(tmp_path / "source"), tmp_path / "shards", form=there(bucket), rule=SPLIT_RULE)
    with pytest.raises(
        ArtifactError, match=rf"The shards lie at {bucket}, and only such beside .* remove .*shards and r"
    ):
        find_savings(tmp_path / "shards/index.json")


def test_the_stages_by_params_leave_the_index_alone(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    two_classes(tmp_path / "photos")
    data_project.stages(tmp_path, destination=bucket)
    assert sorted(path.name for path in layout.SHARDS.rglob("*")) == ["audit_pictures.json", "index.json"]
    verify()
    assert "whole: 60 samples in 1 shards" in capsys.readouterr().out
    fill(tmp_path, {"photos/cat/new.jpg": jpeg(1000)})
    data_project.stages(tmp_path, destination=bucket)
    assert "generation 1: 1 sample written" in capsys.readouterr().out
    assert sorted(path.name for path in layout.SHARDS.rglob("*")) == ["audit_pictures.json", "index.json"]

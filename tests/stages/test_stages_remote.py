"""Every command that reads shards, on shards that lie in a bucket."""

import contextlib
import inspect
import json

import projects
import pytest
import remote_shards
import s3_server
import shard_sets
from audits import NO_PICTURES, audit_with
from typer.testing import CliRunner

from pipeline import params, stores
from pipeline.__main__ import app
from pipeline.artifacts import SPLITS, Index
from pipeline.errors import ArtifactError
from pipeline.loading.batches import split_batches
from pipeline.loading.read import SplitReader
from pipeline.stages import layout
from pipeline.stages.evaluate import evaluate
from pipeline.stages.scan import scan
from pipeline.stages.shard import shard
from pipeline.stages.train import train
from pipeline.stages.verify import verify

SMALL = {"loading": {"global_batch_size": 8}, "model": {"input_px": 32}, "training": {"epochs": 2}}


@pytest.fixture(scope="module")
def server():
    with s3_server.s3_server() as address:
        yield address


@pytest.fixture
def project(tmp_path, monkeypatch, server):
    """A project folder whose shards lie in a bucket, as the working directory."""
    for name, value in s3_server.environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    stores._filesystem.cache_clear()
    folder = projects.write(tmp_path / "project", projects.SMALL, SMALL)
    monkeypatch.chdir(folder)
    shard_sets.write(layout.SHARDS, {"train": [20, 20], "validation": [9], "test": [7, 6]})
    audit_with().write(layout.AUDIT)
    NO_PICTURES.write(layout.AUDIT_PICTURES)
    store, bucket = stores._store("s3://shards-of-a-test")
    store.mkdirs(bucket, exist_ok=True)
    remote_shards.move(layout.INDEX, "s3://shards-of-a-test", lambda name, data: store.pipe(f"{bucket}/{name}", data))
    yield folder
    stores._filesystem.cache_clear()


def run(stage):
    """With the sections that it reads."""
    stage(**params.read(layout.PARAMS, inspect.signature(stage).parameters))


def test_train_evaluate_verify_browse_order_and_ledger(project, capsys):
    run(train)
    run(evaluate)
    assert json.loads(layout.METRICS.read_text())["num_samples"] == 13
    verify()
    assert "whole: 62 samples in 5 shards" in capsys.readouterr().out
    for command in (["browse"], ["order", "--steps", "2"], ["ledger"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    assert "exact: 10 of 10 steps committed" in capsys.readouterr().out + done.output
    assert sorted(path.name for path in layout.SHARDS.rglob("*") if path.is_file()) == [
        "audit_pictures.json",
        "index.json",
    ]


def test_what_the_shard_stage_sent_is_what_the_loader_reads(project):
    changes = {"shards": {"destination": "s3://shards-of-a-test/sent"}, "split": {"validation_fraction": 0.2}}
    projects.write(project, projects.SMALL, SMALL, changes)
    run(scan)
    run(shard)
    verify()
    index = Index.read(layout.INDEX, "shard")
    keys = []
    for split in SPLITS:
        with contextlib.closing(SplitReader(layout.INDEX, split)) as reader:
            for batch in split_batches(reader, input_px=32, batch_size=16, num_workers=1):
                keys += batch.keys_B[batch.mask_B.numpy()].tolist()
    assert len(set(keys)) == len(keys) == index.num_records - index.num_rejects == 120


def test_verify_looks_at_the_store_and_not_at_the_cache(project):
    verify()
    store, bucket = stores._store("s3://shards-of-a-test")
    shard = remote_shards.shards_of(layout.INDEX)[1]
    data = store.cat_file(f"{bucket}/{shard.tar_object}")
    store.pipe(f"{bucket}/{shard.tar_object}", data[:-1] + b"x")
    with pytest.raises(
        ArtifactError, match=rf"{shard.name}.tar is not what the index lists: s3://.*/{shard.tar_object} came"
    ):
        verify()
    store.pipe(f"{bucket}/{shard.tar_object}", data)

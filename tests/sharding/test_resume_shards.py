"""Taking up what a killed run left: finished parts are not done again, damaged or foreign ones are."""

import os
import shutil
from pathlib import Path

import pytest
from image_folders import AUDIT_RULE, FORM, SPLIT_RULE, build, files_of, scanned, silent, two_classes

from pipeline.sharding import inspect, write
from pipeline.sharding.build import build_shard_set
from pipeline.sharding.resume import finish, open_work, read_seal, unfinished, write_seal
from pipeline.sharding.workers import LocalWorkers


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return two_classes(tmp_path_factory.mktemp("source"), 150)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> dict[str, bytes]:
    """An uninterrupted run's files."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    build(source, folder, form=FORM._replace(short_side_px=8))
    return files_of(folder)


@pytest.fixture
def work(source, tmp_path, monkeypatch) -> Path:
    """The work folder of a run that was stopped after its third shard."""
    real, done = write._write, []

    def stop(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(real(*arguments))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            again(source, tmp_path / "work", tmp_path / "first")
    return tmp_path / "work"


def again(source: Path, work: Path, folder: Path, split_rule=SPLIT_RULE) -> dict[str, bytes]:
    manifest = scanned(source, folder.with_suffix(".manifest"))
    work.mkdir(exist_ok=True)
    folder.mkdir()
    form = FORM._replace(short_side_px=8)
    build_shard_set(folder, work, manifest, source, split_rule, form, AUDIT_RULE, LocalWorkers(1), silent)
    return files_of(folder)


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """How many images were decoded and how many shards written from now on."""
    counts = {"images": 0, "shards": 0}

    def counting(name: str, real):
        def call(*arguments):
            counts[name] += 1
            return real(*arguments)

        return call

    monkeypatch.setattr(inspect, "_look_at", counting("images", inspect._look_at))
    monkeypatch.setattr(write, "_write", counting("shards", write._write))
    return counts


def num_shards(files: dict[str, bytes]) -> int:
    return sum(name.endswith(".tar") for name in files)


def test_what_is_finished_is_not_done_again(source, work, whole, tmp_path, calls):
    assert again(source, work, tmp_path / "shards") == whole
    assert calls == {"images": 0, "shards": num_shards(whole) - 3}


@pytest.mark.parametrize("pattern", ["spool/00000001.piece", "spool/00000001.seal", "spool/looks"])
def test_a_damaged_piece_is_done_again(source, work, whole, tmp_path, calls, pattern):
    path = work / pattern
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data[:-1] if pattern.endswith("seal") else data)
    assert again(source, work, tmp_path / "shards") == whole
    assert calls["images"] == (0 if pattern == "spool/looks" else 128), "the pieces' own looks count"


@pytest.mark.parametrize("ending", write.ENDINGS)
def test_a_damaged_or_missing_shard_is_written_again(source, work, whole, tmp_path, calls, ending):
    path = work / f"set/train/train-000001.{ending}"
    if ending == "idx":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    assert again(source, work, tmp_path / "shards") == whole
    assert calls["shards"] == num_shards(whole) - 2


def test_another_split_takes_the_images_but_not_the_shards(source, work, tmp_path, calls):
    rule = SPLIT_RULE._replace(seed=5, validation_fraction=0.0)
    files = again(source, work, tmp_path / "shards", rule)
    assert calls == {"images": 0, "shards": num_shards(files)}
    build(source, tmp_path / "fresh", form=FORM._replace(short_side_px=8), rule=rule)
    assert files == files_of(tmp_path / "fresh")


def test_what_an_orphan_leaves_half_written_is_in_nobodys_way(source, work, whole, tmp_path):
    for path in ("spool/00000002.piece", "set/train/train-000002.tar"):
        unfinished(work / path).write_bytes(b"half")
    assert again(source, work, tmp_path / "shards") == whole


def test_work_for_something_else_is_removed(tmp_path):
    first = open_work(tmp_path, "manifest", 1)
    (first / "deep").mkdir()
    unfinished(first / "deep/part").write_text("half")
    (first / "deep/whole").write_text("whole")
    assert open_work(tmp_path, "manifest", 1) == first
    assert [path.name for path in first.rglob("*")] == ["deep", "whole"]
    second = open_work(tmp_path, "manifest", 2)
    assert list(tmp_path.iterdir()) == [second]
    (tmp_path / ".DS_Store").write_text("of somebody who looked")
    assert open_work(tmp_path, "manifest", 2) == second


def test_a_seal_is_whole_or_not_there(tmp_path):
    path = tmp_path / "part.seal"
    assert read_seal(path) is None
    write_seal(path, {"sha256": "abc"})
    assert read_seal(path) == {"sha256": "abc"}
    path.write_text('{"sha')
    assert read_seal(path) is None
    unfinished(path).write_text("{}")
    assert str(os.getpid()) in unfinished(path).name
    finish(path)
    assert read_seal(path) == {}
    shutil.rmtree(tmp_path)

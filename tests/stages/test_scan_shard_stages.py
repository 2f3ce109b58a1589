"""The stages scan, shard and verify as the commands run them: in a folder, by params, through published files."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from image_folders import fill, jpeg, two_classes

from pipeline import params
from pipeline.artifacts import Index, Scan
from pipeline.errors import ArtifactError, SourceError, StorageError
from pipeline.stages import layout, publish
from pipeline.stages.scan import scan
from pipeline.stages.shard import shard
from pipeline.stages.verify import verify


@pytest.fixture
def run(tmp_path, monkeypatch, repository):
    """Runs scan, shard or both in an empty folder, with single params changed."""
    sections = params.read(repository / "params.yaml")
    monkeypatch.chdir(tmp_path)

    def run(*stages, **changes: object) -> None:
        def section(name: str):
            fields = {key: value for key, value in changes.items() if key in type(sections[name]).model_fields}
            return sections[name].model_copy(update=fields)

        if "scan" in stages:
            scan(section("data"), section("demo"))
        if "shard" in stages:
            shard(*map(section, ("data", "split", "shards", "audit", "cluster")))

    return run


def state() -> dict[str, bytes]:
    outputs = (layout.MANIFEST, layout.SCAN, layout.AUDIT, layout.REJECTS)
    shards = sorted(path for path in layout.SHARDS.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in [*outputs, *shards] if path.exists()}


def test_the_demo_from_nothing_to_verified_shards(run, capsys):
    run("scan", "shard", images_per_class=50)
    verify()
    counts = Scan.read(layout.SCAN, "scan")
    index = Index.read(layout.INDEX, "shard")
    assert counts.class_counts == {"O": 50, "X": 50}
    assert counts.ignored == {}
    assert index.metadata_columns == ["difficulty"]
    assert sum(map(index.num_samples, index.splits)) == 100
    out = capsys.readouterr().out
    assert "100 images of 2 classes" in out
    assert "100 samples" in out
    assert "whole: 100 samples in 3 shards" in out


def test_a_second_run_leaves_the_same_bytes_and_draws_nothing(run):
    run("scan", "shard", images_per_class=30)
    before, drawn = state(), layout.DEMO.stat().st_ino
    run("scan", "shard", images_per_class=30)
    assert state() == before
    assert layout.DEMO.stat().st_ino == drawn
    shutil.rmtree("data")
    run("scan", "shard", images_per_class=30)
    assert state() == before, "a fresh clone must find what an old one has"


def test_a_second_run_that_begins_as_the_first_has_published_keeps_its_work(run, monkeypatch):
    published, theirs = publish.publishing, layout.SHARDS_WORK / "theirs"
    with contextlib.ExitStack() as second:

        @contextlib.contextmanager
        def publishing(*targets: Path):
            with published(*targets) as privates:
                yield privates
            if targets[0] == layout.SHARDS:
                second.enter_context(published(layout.SHARDS))
                theirs.mkdir(parents=True)

        with monkeypatch.context() as patched:
            patched.setattr(publish, "publishing", publishing)
            run("scan", "shard", images_per_class=20)
        assert theirs.exists()
    run("shard", images_per_class=20)
    assert not layout.SHARDS_WORK.exists()


def test_another_demo_replaces_the_old_one(run):
    run("scan", images_per_class=6)
    run("scan", images_per_class=5)
    assert Scan.read(layout.SCAN, "scan").num_records == 10
    assert len(list(layout.DEMO.rglob("*.jpg"))) == 10
    assert not [path for path in layout.DEMO.parent.iterdir() if "partial" in path.name]


def test_a_folder_by_params(run):
    two_classes(Path("photos"))
    fill(Path("photos"), {"cat/notes.txt": b"", "cat/large.jpg": jpeg(1, 40, 60)})
    run("scan", "shard", source="photos", short_side_px=10, samples_per_shard=16, num_workers=2)
    verify()
    assert Scan.read(layout.SCAN, "scan").ignored == {"unknown_extension": 1}
    audit = json.loads(layout.AUDIT.read_text())
    assert (audit["num_records"], audit["num_samples"], audit["width_px"]["max"]) == (61, 61, 60)
    assert layout.REJECTS.read_text() == ""


def test_the_split_parameters_decide(run):
    two_classes(Path("photos"))
    run("scan", "shard", source="photos", validation_fraction=0.0, test_fraction=0.3)
    index = Index.read(layout.INDEX, "shard")
    assert index.splits["validation"] == []
    assert not (layout.SHARDS / "validation").exists()
    assert index.num_samples("train") + index.num_samples("test") == 60
    verify()


def test_duplicates_are_said(run, capsys):
    contents = {f"photos/{label}/{n}.jpg": jpeg(n) for label in "ab" for n in range(5)}
    fill(Path(), contents)
    run("scan", "shard", source="photos", validation_fraction=0.0, test_fraction=0.0)
    out = capsys.readouterr().out
    assert "duplicates: 10 images in 5 groups (the same bytes more than once), such as a/0.jpg" in out
    assert "contradictory_labels: 10 images in 5 groups" in out


def test_rejects_are_said_with_one_of_them_and_where_all_are(run, capsys):
    two_classes(Path("photos"))
    run("scan", "shard", source="photos", validation_fraction=0.0)
    assert "), 0 rejects\n" in capsys.readouterr().out
    fill(Path("photos"), {"cat/bad.jpg": b"text"})
    run("scan", "shard", source="photos", validation_fraction=0.0, max_rejected_fraction=0.05)
    out = capsys.readouterr().out
    assert "), 1 reject\nrejects: such as cat/bad.jpg (not_an_image); see data/rejects.jsonl\n" in out


def test_too_many_rejects_stop_the_stage_but_can_be_looked_at(run):
    two_classes(Path("photos"))
    run("scan", "shard", source="photos", validation_fraction=0.0)
    old = layout.INDEX.read_bytes()
    fill(Path("photos"), {f"cat/bad{n}.jpg": b"text" for n in range(4)})
    message = (
        r"(?s)4 of 64 images cannot be used, more than audit.max_rejected_fraction=0.05 allows. The first of them:"
        r".*cat/bad0.jpg: The bytes are no image.*cat/bad2.jpg.*\ndata/rejects.jsonl lists them all; mend or delete"
    )
    with pytest.raises(SourceError, match=message):
        run("scan", "shard", source="photos", validation_fraction=0.0, max_rejected_fraction=0.05)
    lines = [json.loads(line) for line in layout.REJECTS.read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"cat/bad{n}.jpg" for n in range(4)]
    assert {line["reason"] for line in lines} == {"not_an_image"}
    assert json.loads(layout.AUDIT.read_text())["rejects_by_reason"] == {"not_an_image": 4}
    assert layout.INDEX.read_bytes() == old
    run("scan", "shard", source="photos", validation_fraction=0.0, max_rejected_fraction=0.0625)
    assert Index.read(layout.INDEX, "shard").num_rejects == 4


def test_a_failing_scan_leaves_the_old_manifest(run):
    two_classes(Path("photos"))
    run("scan", source="photos")
    before = state()
    with pytest.raises(SourceError, match="does not exist"):
        run("scan", source="elsewhere")
    assert state() == before


def test_shard_before_scan(run):
    with pytest.raises(ArtifactError, match=r"data/manifest.parquet does not exist; run `convoy scan` first"):
        run("shard")


def test_shard_after_a_scan_of_something_else(run, tmp_path):
    run("scan", images_per_class=5)
    with pytest.raises(
        ArtifactError,
        match=r"manifest\.parquet lists data/raw/demo/records\.csv, and data\.source is photos; run `convoy",
    ):
        run("shard", source="photos")


def test_verify_finds_damage(run):
    run("scan", "shard", images_per_class=20)
    path = next(layout.SHARDS.glob("test/*.tar"))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ArtifactError, match=r"test-000000.tar has \d+ bytes, the index says \d+; run `convoy shard`"):
        verify()


def test_verify_before_shard(run):
    with pytest.raises(ArtifactError, match=r"data/shards/index.json does not exist; run `convoy shard` first"):
        verify()


def test_a_read_only_folder_is_named(run, monkeypatch):
    real = Path.mkdir

    def mkdir(path, *args, **kwargs):  # root may write everywhere: the refusal itself cannot be had on every machine
        if path.name == ".shards.partial":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    run("scan", images_per_class=5)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StorageError, match=r"data/.shards.partial cannot be written \(Permission denied\)"):
        run("shard")
    assert not layout.SHARDS.exists()

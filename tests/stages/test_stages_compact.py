"""`convoy compact` as a person runs it: what it says, what it leaves, and what the shard stage makes of it."""

import data_project
import pytest
from image_folders import files_of, fill, jpeg, two_classes

from pipeline.stages import layout
from pipeline.stages.compact import compact
from pipeline.stages.verify import verify

CHANGES = {"samples_per_shard": 8, "short_side_px": None}


@pytest.fixture
def project(tmp_path, repository, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").symlink_to(repository / "params.yaml")
    two_classes(tmp_path / "photos", 20)
    data_project.stages(tmp_path, **CHANGES)
    (tmp_path / "photos/cat/003.jpg").unlink()
    fill(tmp_path / "photos", {f"cat/new{n}.jpg": jpeg(1000 + n) for n in range(3)})
    data_project.stages(tmp_path, **CHANGES)
    return tmp_path


def test_it_says_what_it_saves_does_it_once_and_the_shard_stage_has_nothing_to_add(project, capsys):
    before = files_of(layout.SHARDS)
    compact(dry_run=True)
    assert capsys.readouterr().out == "1 tombstone of 4.1 kB; 6 shards can be 6\n"
    assert files_of(layout.SHARDS) == before
    compact(dry_run=False)
    assert "compacted to 215.0 kB" in capsys.readouterr().out
    verify()
    compacted = files_of(layout.SHARDS)
    assert compacted != before
    for dry_run in (True, False):
        compact(dry_run=dry_run)
        assert "data/shards has nothing to compact: none of its 6 shards holds tombst" in capsys.readouterr().out
    assert files_of(layout.SHARDS) == compacted
    assert data_project.run(project, **CHANGES).index.generation == 0
    assert files_of(layout.SHARDS) == compacted
    assert not list(layout.SHARDS.parent.glob(".shards.partial"))

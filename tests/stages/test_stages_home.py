"""Where a stage is at home: its working directory, but for one of DVC's temporary copies."""

import os

import projects
import pytest

from pipeline import params
from pipeline.stages import layout
from pipeline.stages.home import home, located
from pipeline.stages.ledger import runs_folder
from pipeline.stages.task import run_root


@pytest.fixture
def repository(tmp_path, monkeypatch):
    (tmp_path / ".dvc/tmp/exps/tmp1").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("where", [".", "data", ".dvc/tmp"])
def test_elsewhere_it_is_the_working_directory(repository, monkeypatch, where):
    (repository / where).mkdir(exist_ok=True)
    monkeypatch.chdir(repository / where)
    assert home() == repository / where
    assert located("photos") == "photos"
    monkeypatch.delenv("DVC_ROOT")
    assert home().samefile(os.curdir)


def test_in_a_temporary_copy_it_is_the_repository(repository, monkeypatch):
    copy = repository / ".dvc/tmp/exps/tmp1"
    monkeypatch.chdir(copy)
    assert home() == repository
    assert located("photos") == str(repository / "photos")
    assert located("nowhere") == "nowhere"
    assert located("demo") == "demo"
    assert located("s3://bucket/photos") == "s3://bucket/photos"
    (copy / "photos").mkdir()
    assert located("photos") == "photos", "what git knows is in the copy, as the experiment has it"
    monkeypatch.delenv("DVC_ROOT")
    assert home() == copy


@pytest.mark.parametrize(("storage", "root"), [(None, ""), ("shared", "shared"), ("/nfs/runs", "/nfs/runs")])
def test_runs_of_a_temporary_copy_are_at_home(repository, monkeypatch, storage, root):
    written = projects.write(repository / ".dvc/tmp/exps/tmp1", {"cluster": {"storage": storage}})
    monkeypatch.chdir(written)
    cluster = params.read(layout.PARAMS, ["cluster"])["cluster"]
    assert run_root(cluster) == repository / root
    assert runs_folder(cluster) == repository / root / "runs"

"""Which run `convoy ledger` looks at, and what it says of a name that is none."""

import projects
import pytest

from pipeline.errors import ArtifactError
from pipeline.stages.ledger import find_run, ledger


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = projects.write(tmp_path / "project", projects.SMALL)
    monkeypatch.chdir(folder)
    return folder


def begin(root, *names):
    for name in names:
        (root / "runs" / name).mkdir(parents=True)
        (root / "runs" / name / "plan.json").touch()


def test_a_run_is_found_by_its_fingerprint_and_by_its_folder(project, tmp_path):
    begin(project, "aa", "bb")
    begin(tmp_path / "elsewhere", "cc")
    assert find_run("bb").samefile(project / "runs/bb")
    assert find_run("runs/aa").samefile(project / "runs/aa")
    assert find_run(str(tmp_path / "elsewhere/runs/cc")) == tmp_path / "elsewhere/runs/cc"


def test_a_run_of_a_cluster_lies_in_its_storage(project, tmp_path):
    projects.write(project, projects.SMALL, {"cluster": {"storage": str(tmp_path / "storage")}})
    begin(tmp_path / "storage", "aa")
    begin(project, "aa", "bb")
    assert find_run("aa") == tmp_path / "storage/runs/aa"
    with pytest.raises(ArtifactError, match="there are aa"):
        find_run("bb")


@pytest.mark.parametrize("name", ["dd", "empty"])
def test_what_is_no_run_is_refused_with_those_there_are(project, name):
    begin(project, "bb", "aa")
    (project / "runs/empty").mkdir()  # without a plan
    wanted = rf"{name} is neither a run's folder nor the fingerprint of one in .*/runs; there are aa, bb\.$"
    with pytest.raises(ArtifactError, match=wanted):
        ledger(name)


def test_before_the_first_run_there_is_none(project):
    with pytest.raises(ArtifactError, match=r"; there is none yet: run `convoy train` first\.$"):
        ledger("dd")
    with pytest.raises(ArtifactError, match=r"data/run\.json does not exist; run `convoy train` first"):
        ledger(None)

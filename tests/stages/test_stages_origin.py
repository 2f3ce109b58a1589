"""Where a run comes from, asked of a real git repository and of what DVC and Ray leave."""

import json
import subprocess

import pytest
import yaml

from pipeline.stages import layout, origin


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def repository(folder):
    """A repository with one commit of params.yaml."""
    layout.PARAMS.write_text("a: 1\n")
    for command in ("init -q", "add .", "-c user.name=n -c user.email=e@f commit -qm first"):
        subprocess.run(["git", *command.split()], check=True)
    return folder


def test_an_experiment_of_dvc_has_its_name(folder, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "lying-oath")
    assert origin.tags() == {"dvc.experiment": "lying-oath"}


def test_nothing_is_known_where_there_is_nothing(folder):
    assert origin.tags() == {}
    origin.leave_difference(folder / "files")
    assert not (folder / "files").exists()


def test_a_clean_tree_is_its_commit(repository):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    layout.DVC_LOCK.write_text("stages: {}\n")  # the stages before this one leave it
    assert origin.tags() == {"mlflow.source.git.commit": commit, "git_dirty": "false"}
    origin.leave_difference(repository / "files")
    assert not (repository / "files").exists()


def test_what_was_not_committed_is_left_once_and_without_credentials(repository):
    layout.PARAMS.write_text("a: 1\nuri: https://me:canary@host/x and http://token@h\n")
    assert origin.tags()["git_dirty"] == "true"
    origin.leave_difference(repository / "files")
    left = (repository / "files" / "uncommitted.diff").read_text()
    assert "+uri: https://host/x and http://h\n" in left
    assert "canary" not in left
    layout.PARAMS.write_text("a: 2\n")
    origin.leave_difference(repository / "files")
    assert (repository / "files" / "uncommitted.diff").read_text() == left


def test_a_long_difference_is_cut(repository, monkeypatch):
    monkeypatch.setattr(origin, "MAX_DIFFERENCE_BYTES", 20)
    layout.PARAMS.write_text("b\n" * 100)
    origin.leave_difference(repository / "files")
    assert (repository / "files" / "uncommitted.diff").stat().st_size == 20


def test_the_hash_of_the_shards_is_dvcs(folder):
    outs = [{"path": "data/audit.json", "md5": "1"}, {"path": "data/shards", "md5": "2.dir"}]
    layout.DVC_LOCK.write_text(yaml.safe_dump({"stages": {"shard": {"outs": outs}}}))
    assert origin.tags() == {"dvc.shards": "2.dir"}


@pytest.mark.parametrize("text", ["", "stages: {}\n", "stages: {shard: {outs: []}}\n", "stages: [\n"])
def test_a_lock_without_shards_says_nothing(folder, text):
    layout.DVC_LOCK.write_text(text)
    assert origin.tags() == {}


def test_a_ray_job_is_named(folder, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {"job_submission_id": "raysubmit_1"}}))
    assert origin.tags() == {"ray_job_id": "raysubmit_1"}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": {}}))
    assert origin.tags() == {}

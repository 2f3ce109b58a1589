"""What a run folder remembers from one attempt to the next, and the environment that MLflow is imported in."""

import os

import pytest

from pipeline.tracking import environment
from pipeline.tracking.run import RUN_FILE, SENT_FILE, Dataset, RunRecord, SentRecord, is_finished_in, next_attempt

DATA = Dataset(name="demo", digest="d" * 64, class_counts={"o": 1})
URI = "http://127.0.0.1:5000"


def attempt(folder, uri=URI, **params):
    return next_attempt(folder, uri, "convoy", "run", params, {}, DATA)


def test_the_next_attempt_continues_the_run(tmp_path):
    first = attempt(tmp_path, lr=0.1)
    first.model_copy(update={"run_id": "abc", "status": "FAILED"}).write(tmp_path / RUN_FILE)
    second = attempt(tmp_path, lr=0.2)
    assert (second.run_id, second.token, second.attempts, second.status) == ("abc", first.token, 2, "RUNNING")
    assert second.params == {"lr": "0.2"}
    assert RunRecord.read(tmp_path / RUN_FILE) == second


def test_another_store_gets_another_run(tmp_path):
    attempt(tmp_path).model_copy(update={"run_id": "abc"}).write(tmp_path / RUN_FILE)
    assert attempt(tmp_path, uri="http://127.0.0.1:6000").run_id is None


@pytest.mark.parametrize(
    ("status", "sent", "uri", "experiment", "is_finished"),
    [
        ("FINISHED", "FINISHED", URI, "convoy", True),
        ("KILLED", "KILLED", URI, "convoy", False),
        ("FINISHED", "RUNNING", URI, "convoy", False),
        ("FINISHED", "FINISHED", "http://127.0.0.1:6000", "convoy", False),
        ("FINISHED", "FINISHED", URI, "another", False),
    ],
)
def test_a_run_is_finished_where_it_was_sent_to_its_end(tmp_path, status, sent, uri, experiment, is_finished):
    assert not is_finished_in(tmp_path, uri, experiment)
    attempt(tmp_path).model_copy(update={"status": status}).write(tmp_path / RUN_FILE)
    SentRecord(run_id="abc", status=sent).write(tmp_path / SENT_FILE)
    assert is_finished_in(tmp_path, uri, experiment) == is_finished


@pytest.mark.parametrize("content", ["", "{", '{"run_id": 5}', "[]"])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / RUN_FILE).write_text(content)
    assert RunRecord.read(tmp_path / RUN_FILE) is None
    assert attempt(tmp_path).attempts == 1
    assert SentRecord.read(tmp_path / "nothing.json") is None


def test_the_pickle_switch_is_off_whatever_the_user_says_and_the_rest_is_his(monkeypatch):
    for name in (*environment.FLAGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    environment.prepare(max_retries=0)
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"

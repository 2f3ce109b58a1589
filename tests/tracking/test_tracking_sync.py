"""What a run's folder still holds is sent when no training does."""

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import store
from pipeline.tracking.run import RUN_FILE, SPOOL_FILE, Dataset, RunRecord, is_published, next_attempt
from pipeline.tracking.spool import Spool
from pipeline.tracking.sync import send_waiting

DATA = Dataset(name="demo", digest="d" * 64, class_counts={"o": 3, "x": 4})


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose driver was killed after step 4, its newest checkpoint at 3, and its store."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = tmp_path / "run"
    folder.mkdir()
    next_attempt(folder, uri, "convoy", "run", {"lr": 0.1}, {}, DATA)
    spool = Spool(folder / SPOOL_FILE)
    for step in range(5):
        spool.append(step, {"train/loss": 1 / (step + 1)})
    spool.close()
    return folder, uri


def test_the_committed_steps_are_sent_once_and_the_run_ends_as_killed(run):
    folder, uri = run
    assert not is_published(folder)
    run_id = send_waiting(folder, uri, committed_step=3)
    assert send_waiting(folder, uri, committed_step=3) == run_id
    client = store.connect(uri)
    assert client.get_run(run_id).info.status == "KILLED"
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "train/loss")) == [0, 1, 2, 3]
    assert is_published(folder)


def test_a_run_of_another_store_is_refused(run, tmp_path):
    folder, uri = run
    with pytest.raises(TrackingError, match=rf"run belongs to the store {uri}, and tracking\.uri .* names sqlite"):
        send_waiting(folder, f"sqlite:///{tmp_path / 'other.db'}", committed_step=3)


def test_a_folder_without_a_record_is_refused(tmp_path):
    with pytest.raises(TrackingError, match=r"mlflow_run\.json cannot be read, so its run is unknown; `convoy train`"):
        send_waiting(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", committed_step=0)


def test_what_was_committed_when_the_run_ended_is_sent_without_its_checkpoints(run):
    folder, uri = run
    record = RunRecord.read(folder / RUN_FILE)
    record.model_copy(update={"status": "FINISHED", "committed_step": 4}).write(folder / RUN_FILE)
    run_id = send_waiting(folder, uri, committed_step=0)
    client = store.connect(uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert sorted(metric.step for metric in client.get_metric_history(run_id, "train/loss")) == [0, 1, 2, 3, 4]
    assert RunRecord.read(folder / RUN_FILE).committed_step == 4

"""A tracker on a real sqlite store: one run, each (key, step) once, a true status, whatever was killed in between."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import store
from pipeline.tracking.address import resolve
from pipeline.tracking.mlflow import open_run
from pipeline.tracking.run import RUN_FILE, SENT_FILE, SPOOL_FILE, Dataset, RunRecord, SentRecord
from pipeline.tracking.sender import Sender
from pipeline.tracking.spool import Spool, truncate_after

DATA = Dataset(name="demo", digest="d" * 64, class_counts={"o": 3, "x": 4})


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One store for all tests here: making one costs two seconds."""
    return resolve(None, tmp_path_factory.mktemp("a store"))


@pytest.fixture(scope="module")
def client(uri):
    return store.connect(uri)


@pytest.fixture
def start(uri, tmp_path):
    """Opens the run of tmp_path, once more at each call; every tracker is ended with the test."""
    trackers = []

    def start(params=None, tags=None):
        trackers.append(open_run(uri, "convoy", tmp_path, tmp_path.name, params or {}, tags or {}, DATA))
        assert trackers[-1].problem is None
        return trackers[-1]

    yield start
    for tracker in trackers:
        tracker.finish("KILLED", 10)


def train(folder, steps):
    spool = Spool(folder / SPOOL_FILE)
    for step in steps:
        spool.append(step, {"train/loss": 1 / (step + 1), "lr": 0.1})
    spool.close()


def history(client, run_id, key="train/loss"):
    return [metric.step for metric in client.get_metric_history(run_id, key)]


def test_a_run_shows_what_people_look_for(client, uri, start, tmp_path):
    tracker = start({"optimizer.lr": 0.1, "long": "y" * 9000, "flag": True}, {"git": "abc", "diff": "+" * 9000})
    run = client.get_run(tracker.run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == tmp_path.name
    assert run.data.params["optimizer.lr"] == "0.1"
    assert run.data.params["flag"] == "True"
    assert len(run.data.params["long"]) == 6000
    assert run.data.params["long"].endswith("…")
    assert len(run.data.tags["diff"]) == 8000
    assert (run.data.tags["git"], run.data.tags["attempts"]) == ("abc", "1")
    [dataset] = [entry.dataset for entry in run.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("demo", "d" * 36)
    assert '"x": 4' in dataset.profile
    assert run.data.tags["mlflow.source.name"] == "convoy train"
    assert client.get_experiment_by_name("convoy").tags["mlflow.experimentKind"] == "custom_model_development"
    # wherever this process was started, the artifacts lie beside the store
    assert run.info.artifact_uri.startswith((store.address.sqlite_file(uri).parent / "mlruns").as_uri())


def test_files_of_the_run_become_artifacts_once(client, start, tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "first.txt").write_text("1")
    (tmp_path / "files" / ".half.partial").write_text("not yet")
    tracker = start()
    (tmp_path / "files" / "later.txt").write_text("2")
    assert tracker.finish("KILLED", 30)
    sent = []
    log_artifact = type(client).log_artifact
    monkeypatch.setattr(type(client), "log_artifact", lambda *given: (sent.append(given[2]), log_artifact(*given)))
    (tmp_path / "files" / "last.txt").write_text("3")
    again = start()
    assert again.finish("FINISHED", 30)
    assert [name.rpartition("/")[2] for name in sent] == ["last.txt"]
    listed = [file.path for file in client.list_artifacts(again.run_id)]
    assert sorted(listed) == ["first.txt", "last.txt", "later.txt"]


def test_only_committed_steps_leave_and_each_once(client, start, tmp_path):
    tracker = start()
    train(tmp_path, range(50))
    tracker.pump(20)
    assert tracker.finish("KILLED", 30)
    assert history(client, tracker.run_id) == list(range(21))
    assert client.get_run(tracker.run_id).info.status == "KILLED"

    truncate_after(tmp_path / SPOOL_FILE, 30)
    again = start()
    assert again.run_id == tracker.run_id
    assert client.get_run(again.run_id).info.status == "RUNNING"
    train(tmp_path, range(31, 60))
    again.pump(59)
    assert again.finish("FINISHED", 30)
    assert history(client, again.run_id) == list(range(60))
    run = client.get_run(again.run_id)
    assert (run.info.status, run.data.tags["attempts"]) == ("FINISHED", "2")


def test_how_a_run_ended_is_a_tag_of_its_end(client, start, tmp_path):
    assert start().finish("KILLED", 30)
    again = start()
    assert again.finish("FINISHED", 30, {"ending": "all of 3 epochs"})
    tags = client.get_run(again.run_id).data.tags
    assert (tags["ending"], tags["attempts"]) == ("all of 3 epochs", "2")


def test_more_than_a_batch_and_more_than_a_chunk(client, start, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.tracking.spool.CHUNK_BYTES", 100_000)
    tracker = start()
    train(tmp_path, range(3000))
    tracker.pump(2999)
    assert tracker.finish("FINISHED", 60)
    assert history(client, tracker.run_id) == list(range(3000))
    assert history(client, tracker.run_id, "lr") == list(range(3000))


def test_a_fall_back_to_an_older_checkpoint_gives_no_step_twice(client, start, tmp_path):
    tracker = start()
    train(tmp_path, range(20))
    tracker.pump(19)
    assert tracker.finish("FAILED", 30)
    truncate_after(tmp_path / SPOOL_FILE, 9)
    again = start()
    train(tmp_path, range(10, 30))
    again.pump(29)
    assert again.finish("FINISHED", 30)
    assert history(client, again.run_id) == list(range(30))


def test_a_kill_between_sending_and_noting_it_gives_no_step_twice(client, start, tmp_path):
    tracker = start()
    before = (tmp_path / SENT_FILE).read_bytes()
    train(tmp_path, range(20))
    tracker.pump(19)
    assert tracker.finish("KILLED", 30)
    (tmp_path / SENT_FILE).write_bytes(before)
    again = start()
    again.pump(19)
    assert again.finish("FINISHED", 30)
    assert history(client, again.run_id) == list(range(20))


def test_a_kill_between_creation_and_noting_the_id_gives_no_second_run(client, start, tmp_path):
    tracker = start()
    record = RunRecord.read(tmp_path / RUN_FILE)
    record.model_copy(update={"run_id": None}).write(tmp_path / RUN_FILE)
    assert start().run_id == tracker.run_id


def test_a_deleted_run_is_replaced_and_filled_again(client, start, tmp_path):
    tracker = start()
    train(tmp_path, range(5))
    tracker.pump(4)
    assert tracker.finish("KILLED", 30)
    client.delete_run(tracker.run_id)
    again = start()
    again.pump(4)
    assert again.finish("FINISHED", 30)
    assert again.run_id != tracker.run_id
    assert history(client, again.run_id) == list(range(5))


def test_a_param_of_a_later_attempt_is_a_tag(client, start):
    tracker = start({"cluster.num_workers": 2})
    tracker.finish("KILLED", 30)
    start({"cluster.num_workers": 1, "late": "x"})
    data = client.get_run(tracker.run_id).data
    assert data.params == {"cluster.num_workers": "2", "late": "x"}
    assert data.tags["changed.cluster.num_workers"] == "1"


def test_a_param_that_changes_back_is_not_told_as_changed_to_what_it_was(client, start):
    for ledger in ("digest", "full", "digest"):
        tracker = start({"training.ledger": ledger})
        tracker.finish("KILLED", 30)
    assert client.get_run(tracker.run_id).data.tags["changed.training.ledger"] == "digest"


def test_a_defect_in_the_sender_costs_the_curves_only(start, tmp_path, monkeypatch, caplog):
    tracker = start()
    train(tmp_path, range(3))

    def broken(self, client, committed_step):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Sender, "_send", broken)
    tracker.pump(2)
    assert not tracker.finish("FINISHED", 1.0)
    assert "planted" in tracker.problem
    assert "Training goes on" in caplog.text
    assert RunRecord.read(tmp_path / RUN_FILE).status == "FINISHED"
    assert RunRecord.read(tmp_path / RUN_FILE).committed_step == 2
    assert SentRecord.read(tmp_path / SENT_FILE).status == "RUNNING"


def test_a_deleted_experiment_is_named(client, uri):
    client.delete_experiment(store.find_or_create_experiment(client, uri, "gone"))
    with pytest.raises(TrackingError, match=r"'gone' was deleted; restore it \(`mlflow experiments restore"):
        store.find_or_create_experiment(client, uri, "gone")


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be looked at as if it were one" * 20)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used: .*check tracking\.uri"):
        store.connect(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_full_disk_of_this_machine_is_not_blamed_on_the_store(uri):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/model")
    message = r"No space left on device: '/tmp/model'; free or mend that disk\."
    with pytest.raises(TrackingError, match=message), store.translating(uri):
        raise full


@pytest.mark.slow
def test_a_store_whose_making_was_killed_half_way_is_made_anew(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = (
        "import os, signal, sqlalchemy\n"
        "def kill(connection, cursor, statement, *_):\n"
        "    if statement.startswith('INSERT INTO _alembic_tmp_'):  # a table that a second making would meet\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sqlalchemy.event.listen(sqlalchemy.engine.Engine, 'before_cursor_execute', kill)\n"
        f"from pipeline.tracking import store; store.connect({uri!r})"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "mlflow.db").exists()
    client = store.connect(uri)
    assert store.find_or_create_experiment(client, uri, "convoy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]

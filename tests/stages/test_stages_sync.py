"""`convoy track sync` on the folders of several runs: each is sent as far as no restart would take it back."""

import pytest

from pipeline.errors import TrackingError
from pipeline.stages.publish import lock
from pipeline.stages.sync import send_all
from pipeline.tracking import store
from pipeline.tracking.run import SPOOL_FILE, Dataset, is_published, next_attempt
from pipeline.tracking.spool import Spool
from pipeline.training.folder import Result, RunFolder

NUM_STEPS = 4
DATA = Dataset(name="demo", digest="d" * 64, class_counts={"o": 3, "x": 4})
RESULT = Result(
    fingerprint="f", num_steps=NUM_STEPS, num_epochs=1, exported_epoch=1, ending="all of 1 epochs", world_size=1,
    attempts=1, num_parameters=1, train_seconds=1.0, images_per_second=1.0, validation={}, history=[], thresholds=[],
    weights_sha256="a" * 64,
)  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Gives the store, and makes the folder of a run whose driver was killed before MLflow was told anything."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def make(name: str) -> RunFolder:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        next_attempt(folder, uri, "convoy", name, {}, {}, DATA)
        spool = Spool(folder / SPOOL_FILE)
        for step in range(1, NUM_STEPS + 1):
            spool.append(step, {"train/loss": 1 / step})
        spool.close()
        return RunFolder(folder)

    return tmp_path / "runs", uri, make


def steps_by_run(uri: str) -> dict[str, list[int]]:
    client = store.connect(uri)
    found = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
    return {
        run.info.run_name: sorted(each.step for each in client.get_metric_history(run.info.run_id, "train/loss"))
        for run in found
    }


def test_a_finished_run_without_checkpoints_is_sent_whole(runs):
    root, uri, make = runs
    RESULT.write(make("finished").result)
    (make("unfinished").checkpoints / "step-000000002").mkdir(parents=True)
    make("begun")
    assert send_all(root, uri, lambda text: None) == 3
    assert steps_by_run(uri) == {"finished": [1, 2, 3, 4], "unfinished": [1, 2], "begun": []}
    client = store.connect(uri)
    pages = client.search_runs([client.get_experiment_by_name("convoy").experiment_id])
    assert {page.info.run_name: page.info.status for page in pages} == {
        "finished": "FINISHED", "unfinished": "KILLED", "begun": "KILLED",
    }  # fmt: skip
    assert {page.data.tags.get("ending") for page in pages} == {RESULT.ending, None}
    assert all(map(is_published, root.iterdir()))
    assert send_all(root, uri, lambda text: None) == 0


def test_a_run_that_is_being_trained_is_left_to_who_trains_it(runs):
    root, uri, make = runs
    RESULT.write(make("finished").result)
    (make("trained").checkpoints / "step-000000002").mkdir(parents=True)
    said = []
    with lock(root / "trained" / ".lock"):  # as the train stage holds it
        assert send_all(root, uri, said.append) == 2
    assert [text.split(" is ")[0] for text in said] == ["sent: finished", "left: trained"]
    assert said[1] == "left: trained is being trained, and that sends its own"
    assert steps_by_run(uri) == {"finished": [1, 2, 3, 4]}
    assert send_all(root, uri, said.append) == 1
    assert steps_by_run(uri) == {"finished": [1, 2, 3, 4], "trained": [1, 2]}


def test_a_result_that_cannot_be_read_keeps_no_other_run_from_being_sent(runs):
    root, uri, make = runs
    make("damaged").result.write_text("{")
    RESULT.write(make("finished").result)
    with pytest.raises(TrackingError, match=r"1 of 2 runs still wait:\ndamaged: .*result\.json cannot be read: .*;"):
        send_all(root, uri, lambda text: None)
    assert steps_by_run(uri) == {"finished": [1, 2, 3, 4]}

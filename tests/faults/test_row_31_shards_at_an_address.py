"""Row 31, the loader's side: the store that holds the shards answers 503, breaks off, is gone while a run trains."""

import pytest
import remote_shards
import train_commands


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    with remote_shards.store() as store:
        yield store


def move(folder, store):
    """The project's shards go to the store."""
    index_path = folder / "data" / "shards" / "index.json"
    remote_shards.move(index_path, store.address, store.objects.__setitem__)
    return index_path


def test_503s_resets_and_short_bodies_leave_the_same_run(project, undisturbed, store):
    folder = project()
    move(folder, store)
    store.fault = lambda name, times: {1: 503, 2: "reset" if name < "8" else "short"}.get(times)
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    train_commands.ended_as(undisturbed, folder)
    assert set(store.asked.values()) == {3}, "two answers that were none, and one"


def test_a_shard_that_is_gone_is_named_and_once_it_is_back_the_run_ends_as_it_would_have(project, store):
    folder = project(loading={"shuffle_window_samples": 4}, training={"epochs": 1})
    index_path = move(folder, store)
    gone = remote_shards.shards_of(index_path)[1].tar_object
    store.fault = lambda name, times: 404 if name == gone else None
    done = train_commands.train(folder)
    assert done.exit_code == 1, done.said
    assert f"train/train-000001.tar is gone: {store.address}/{gone} does not exist any more" in done.said
    assert "Traceback" not in done.said
    store.fault = lambda name, times: None
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    steps = train_commands.history(train_commands.the_run(folder))
    assert [step for step, _, _ in steps] == list(range(len(steps)))
    assert len({key for _, keys, _ in steps for key in keys}) == 5 * 8

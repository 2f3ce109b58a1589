"""The page that a sweep's trials lie under is found again, and made again where it is gone."""

import pytest

from pipeline.tracking import store
from pipeline.tracking.address import resolve
from pipeline.tracking.parent import ID_FILE, close_parent, open_parent


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return resolve(None, tmp_path_factory.mktemp("a store"))


def open_page(uri, folder):
    return open_parent(uri, "convoy", "sweep", {"trials": 3}, folder)


def test_the_same_sweep_goes_on_with_its_page(uri, tmp_path):
    run_id = open_page(uri, tmp_path)
    close_parent(uri, run_id, "KILLED", {})
    assert open_page(uri, tmp_path) == run_id
    assert store.connect(uri).get_run(run_id).info.status == "RUNNING"


def test_a_page_that_was_deleted_is_made_again(uri, tmp_path):
    run_id = open_page(uri, tmp_path)
    store.connect(uri).delete_run(run_id)
    again = open_page(uri, tmp_path)
    assert again != run_id
    assert (tmp_path / ID_FILE).read_text() == again


@pytest.mark.parametrize("note", ["", "0123456789abcdef0123456789abcdef"], ids=["a killed writer's", "another store's"])
def test_a_note_that_names_no_page_of_the_store_is_written_anew(uri, tmp_path, note):
    (tmp_path / ID_FILE).write_text(note)
    run_id = open_page(uri, tmp_path)
    assert store.connect(uri).get_run(run_id).data.params == {"trials": "3"}
    assert open_page(uri, tmp_path) == run_id

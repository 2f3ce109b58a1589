"""Exit codes: everything that the user can mend leaves with 1."""

import inspect
import pickle

import pytest

from pipeline import errors

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


@pytest.mark.parametrize("cls", TREE)
def test_an_error_of_ours_is_the_users_to_mend(cls):
    assert issubclass(cls, errors.ConvoyError)
    assert cls.exit_code == 1
    assert cls.__doc__


@pytest.mark.parametrize("crossing", [lambda error: error, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_image_error_carries_its_reason_also_across_processes(crossing):
    error = crossing(errors.ImageError("truncated", "photo.jpg ends after 100 of 200 bytes."))
    assert error.reason == "truncated"
    assert str(error) == "photo.jpg ends after 100 of 200 bytes."

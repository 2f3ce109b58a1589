"""What tests of shard sets share."""

import gc

import pytest


@pytest.fixture
def careless_reader():
    """webdataset leaves closing its files to the garbage collector: let that be here, not in another test."""
    yield
    gc.collect()

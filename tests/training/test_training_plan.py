"""What null stands for is settled before a run is named: a run never means two orders."""

from pathlib import Path

import projects
import pytest
import shard_sets

from pipeline import params
from pipeline.artifacts import Index
from pipeline.loading.order import REMOTE_WINDOW_SAMPLES
from pipeline.training.plan import settled


@pytest.mark.parametrize(
    ("given", "sampling", "location", "window"),
    [
        (None, "uniform", None, None),
        (None, "uniform", "s3://bucket/photos", REMOTE_WINDOW_SAMPLES),
        (500, "uniform", "s3://bucket/photos", 500),
        (500, "uniform", None, 500),
        (None, "balanced", "s3://bucket/photos", None),
    ],
)
def test_shards_at_an_address_are_shuffled_in_windows_unless_one_is_given(tmp_path, given, sampling, location, window):
    index = Index.read(shard_sets.write(tmp_path, {"train": [4]}), made_by="shard")
    loading = params.read(Path(projects.REPOSITORY / "params.yaml"), ["loading"])["loading"]
    loading = loading.model_copy(update={"shuffle_window_samples": given, "sampling": sampling})
    found = settled(loading, index.model_copy(update={"location": location}))
    assert found == loading.model_copy(update={"shuffle_window_samples": window})

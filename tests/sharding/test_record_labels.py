"""One number a record that says what it is labelled with."""

import pytest
from image_folders import fill, scanned

from pipeline.sharding.labels import read_labels


@pytest.mark.parametrize(("num_classes", "num_bytes"), [(256, 1), (257, 2)])
def test_a_label_takes_as_many_bytes_as_the_classes_need(tmp_path, num_classes, num_bytes):
    names = [f"{number:03d}" for number in range(num_classes)]
    fill(tmp_path, {f"{name}/a.jpg": b"not read by a scan" for name in names})
    labels = read_labels(scanned(tmp_path, tmp_path / "m.parquet"))
    assert (labels.codes.itemsize, labels.codes.tolist()) == (num_bytes, [*range(num_classes)])
    assert labels.name(num_classes - 1) == names[-1]
    assert labels.count(labels.has_any([num_classes - 1])).tolist() == [0] * (num_classes - 1) + [1]

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts import Reject
from pipeline.sharding.audit import Samples, audit_samples, has_too_many_rejects, too_many_rejects


def audit_of(contents: list[tuple[int, ...]], labels: list[int] | None = None):
    """Of samples whose digests are made of four words each."""
    digests = np.array(contents, ">u8").reshape(-1, 4).view(np.uint8)
    paths = pa.chunked_array([[f"{row}.jpg" for row in range(len(contents))]], pa.string())
    zeros = np.zeros(len(contents), np.int8)
    labels = np.array(labels or zeros, np.int32)
    sizes = np.ones((len(contents), 2), np.int32)
    return audit_samples(Samples(paths, labels, zeros, digests, sizes), ["a", "b"], [], len(contents))


WORDS = st.tuples(*[st.integers(0, 1)] * 4)


@given(st.lists(WORDS, max_size=40))
def test_equal_digests_are_grouped_whatever_part_of_them_is_alike(contents):
    groups = {}
    for row, content in enumerate(contents):
        groups.setdefault(content, []).append(f"{row}.jpg")
    found = audit_of(contents).duplicates
    expected = [paths for paths in groups.values() if len(paths) > 1]
    assert found.examples == sorted(expected, key=lambda paths: int(paths[0].removesuffix(".jpg")))
    assert found.num_images == sum(map(len, expected))


def test_one_image_under_two_labels():
    assert audit_of([(1, 2, 3, 4)] * 2, [0, 1]).contradictory_labels.examples == [["0.jpg", "1.jpg"]]
    assert audit_of([(1, 2, 3, 4)] * 2, [1, 1]).contradictory_labels.num_groups == 0


def test_counts_that_do_not_add_up_are_our_bug():
    nothing = Samples(pa.chunked_array([[]], pa.string()), *np.zeros((4, 0, 32), np.uint8))
    with pytest.raises(AssertionError, match="neither sample nor reject"):
        audit_samples(nothing, ["a", "b"], [], 1)


@pytest.mark.parametrize(("num_rejects", "expected"), [(0, False), (1, False), (2, True)])
def test_the_limit_itself_is_allowed(num_rejects, expected):
    assert has_too_many_rejects(num_rejects, 100, 0.01) == expected


def test_no_rejects_allowed():
    assert has_too_many_rejects(1, 100, 0.0)
    assert not has_too_many_rejects(0, 100, 0.0)


def test_the_message_names_the_first_three():
    rejects = [Reject(path=f"{n}.jpg", reason="truncated", detail="It ends early.") for n in range(5)]
    message = str(too_many_rejects(rejects, 50, 0.01, "rejects.jsonl"))
    assert "5 of 50 images cannot be used, more than audit.max_rejected_fraction=0.01 allows" in message
    assert "  2.jpg: It ends early.\nrejects.jsonl lists them all" in message
    assert "3.jpg" not in message

from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sections
from pipeline.artifacts import Reject
from pipeline.sharding.audit import (
    EXPLANATIONS,
    Audit,
    AuditRule,
    Samples,
    audit_samples,
    is_refused,
    refusal,
    warnings,
)

RULE = AuditRule(0.01, 6, 16, 10.0, 0, dict.fromkeys(EXPLANATIONS, "warn"))


def audit_of(contents: list[tuple[int, ...]], labels: list[int] | None = None, rule: AuditRule = RULE, **columns):
    """Of samples whose digests are made of four words each; nothing is special about them but what is said."""
    num_samples = len(contents)
    samples = Samples(
        paths=pa.chunked_array([[f"{row}.jpg" for row in range(num_samples)]], pa.string()),
        labels=np.array(labels or [0] * num_samples, np.int32),
        splits=np.zeros(num_samples, np.int8),
        groups=pa.chunked_array([[None] * num_samples], pa.string()),
        digests=np.array(contents, ">u8").reshape(-1, 4).view(np.uint8),
        alike=np.arange(num_samples),
        sizes=np.full((num_samples, 2), 99, np.int32),
        brightnesses=np.full(num_samples, 99, np.float32),
        contrasts=np.full(num_samples, 99, np.float32),
        kinds={"JPEG YCbCr": num_samples},
    )
    return audit_samples(samples._replace(**columns), ["a", "b"], [], num_samples, rule)


def different(num_samples: int) -> list[tuple[int, ...]]:
    return [(row, 0, 0, 0) for row in range(num_samples)]


WORDS = st.tuples(*[st.integers(0, 1)] * 4)


@given(st.lists(WORDS, max_size=40))
def test_equal_digests_are_grouped_whatever_part_of_them_is_alike(contents):
    groups = {}
    for row, content in enumerate(contents):
        groups.setdefault(content, []).append(f"{row}.jpg")
    found = audit_of(contents).findings["duplicates"]
    expected = [paths for paths in groups.values() if len(paths) > 1]
    assert found.examples == sorted(expected, key=lambda paths: int(paths[0].removesuffix(".jpg")))
    assert found.num_images == sum(map(len, expected))


def test_one_image_under_two_labels():
    found = audit_of([(1, 2, 3, 4)] * 2, [0, 1]).findings
    assert found["contradictory_labels"].examples == [["0.jpg", "1.jpg"]]
    assert audit_of([(1, 2, 3, 4)] * 2, [1, 1]).findings["contradictory_labels"].num_groups == 0


def test_what_is_alike_is_told_from_what_is_equal():
    contents = [(0, 0, 0, 0), (0, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0)]
    alike, splits = np.array([0, 0, 2, 3, 3]), np.array([0, 1, 0, 0, 2], np.int8)
    found = audit_of(contents, [0, 0, 0, 0, 1], alike=alike, splits=splits).findings
    assert found["duplicates"].examples == found["leakage"].examples == [["0.jpg", "1.jpg"]]
    for name in ("near_duplicates", "near_leakage", "contradictory_near_labels"):
        assert found[name].examples == [["3.jpg", "4.jpg"]], name
    assert found["contradictory_labels"].num_groups == 0


def test_a_group_in_two_splits():
    groups = pa.chunked_array([["x", "x", None, None, "y"]])
    found = audit_of(different(5), groups=groups, splits=np.array([0, 2, 0, 1, 1], np.int8)).findings
    assert found["group_leakage"].examples == [["0.jpg", "1.jpg"]]


def test_images_that_are_odd_on_their_own():
    found = audit_of(
        different(3),
        sizes=np.array([[15, 99], [99, 15], [16, 16]], np.int32),
        brightnesses=np.array([9.9, 10.0, 99], np.float32),
        contrasts=np.array([99, 99, 1.9], np.float32),
    ).findings
    assert found["tiny_images"].examples == [["0.jpg"], ["1.jpg"]]
    assert found["dark_images"].examples == [["0.jpg"]]
    assert found["blank_images"].examples == [["2.jpg"]]


def test_a_class_with_few_training_samples():
    rule = RULE._replace(min_training_samples=2)
    found = audit_of(different(4), [0, 0, 1, 1], rule, splits=np.array([0, 0, 0, 2], np.int8)).findings["rare_classes"]
    assert (found.examples, found.num_groups, found.num_images) == ([["b"]], 1, 2)


@pytest.mark.parametrize("policy", ["ignore", "warn", "fail"])
def test_a_policy_says_what_follows(policy):
    rule = RULE._replace(policies={**RULE.policies, "duplicates": policy})
    audit = audit_of([(1, 2, 3, 4)] * 2, rule=rule)
    said = ["duplicates: 2 images in 1 groups (the same bytes more than once), such as 0.jpg, 1.jpg"]
    assert warnings(audit) == (said if policy == "warn" else [])
    assert is_refused(audit, 1.0) == (policy == "fail")
    if policy == "fail":
        assert str(refusal(audit, [], 1.0, "audit.json", "rejects.jsonl")) == (
            f"The images hold what audit.* in params.yaml does not allow:\n  {said[0]}\n"
            "audit.json lists them; mend the source, or set audit.policies.duplicates to warn."
        )


def test_a_finding_without_a_policy_warns():
    assert len(warnings(audit_of([(1, 2, 3, 4)] * 2, rule=RULE._replace(policies={})))) == 1


def test_nothing_found_is_nothing_said():
    rule = RULE._replace(policies=dict.fromkeys(EXPLANATIONS, "fail"))
    assert not is_refused(audit_of(different(3), rule=rule), 0.0)


def test_every_finding_has_a_policy_among_the_params_and_an_explanation():
    assert {*get_args(sections.Finding)} == EXPLANATIONS.keys() == audit_of([]).findings.keys()


def test_counts_that_do_not_add_up_are_our_bug():
    with pytest.raises(AssertionError, match="neither sample nor reject"):
        audit_of(different(2), labels=[0])


def with_rejects(num_rejects: int, num_records: int) -> Audit:
    counts = {"num_records": num_records, "num_samples": num_records - num_rejects, "num_rejects": num_rejects}
    return audit_of([]).model_copy(update=counts)


@pytest.mark.parametrize(("num_rejects", "expected"), [(0, False), (1, False), (2, True)])
def test_the_limit_itself_is_allowed(num_rejects, expected):
    assert is_refused(with_rejects(num_rejects, 100), 0.01) == expected


def test_no_rejects_allowed():
    assert is_refused(with_rejects(1, 100), 0.0)
    assert not is_refused(with_rejects(0, 100), 0.0)


def test_the_message_names_the_first_three():
    rejects = [Reject(path=f"{n}.jpg", reason="truncated", detail="It ends early.") for n in range(5)]
    message = str(refusal(with_rejects(5, 50), rejects, 0.01, "audit.json", "rejects.jsonl"))
    assert "5 of 50 images cannot be used, more than audit.max_rejected_fraction=0.01 allows" in message
    assert "  2.jpg: It ends early.\nrejects.jsonl lists them all" in message
    assert "3.jpg" not in message

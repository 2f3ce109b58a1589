from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sections
from pipeline.artifacts import Reject
from pipeline.findings import EXPLANATIONS, Audit
from pipeline.sharding.audit import (
    AuditRule,
    Samples,
    audit_samples,
    is_refused,
    refusal,
    warnings,
)
from pipeline.sharding.groups import alone, group_equal
from pipeline.sharding.labels import Labels

RULE = AuditRule(0.01, 6, 16, 10.0, 0, dict.fromkeys(EXPLANATIONS, "warn"))


def audit_of(contents: list[tuple[int, ...]], labels: list[int] | None = None, rule: AuditRule = RULE, **columns):
    """Of samples whose digests are made of four words each; nothing is special about them but what is said."""
    num_samples = len(contents)
    digests = np.array(contents, ">u8").reshape(-1, 4).view(np.uint8)
    look = {name: np.full(num_samples, 99) for name in ("height", "width", "brightness", "contrast")}
    samples = Samples(
        labels=Labels(["a", "b"], np.array(labels or [0] * num_samples, np.int32)),
        splits=np.zeros(num_samples, np.int8),
        equal=group_equal(digests.reshape(-1, 4, 8)[:, 0].copy().view("<u8")[:, 0], digests.__getitem__),
        alike=alone(num_samples),
        together=alone(num_samples),
        look={**look, **{name: columns.pop(name) for name in look if name in columns}}.__getitem__,
        kinds={"JPEG YCbCr": num_samples},
        paths=lambda rows: [f"{row}.jpg" for row in rows],
    )
    rejects = [Reject(path="x.jpg", reason="truncated", detail="")] * int(
        (columns.get("splits", samples.splits) < 0).sum()
    )
    return audit_samples(samples._replace(**columns), rejects, num_samples, rule).audit


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
    alike, splits = np.array([0, 0, 2, 3, 3], np.int32), np.array([0, 1, 0, 0, 2], np.int8)
    found = audit_of(contents, [0, 0, 0, 0, 1], alike=alike, splits=splits).findings
    assert found["duplicates"].examples == found["leakage"].examples == [["0.jpg", "1.jpg"]]
    for name in ("near_duplicates", "near_leakage", "contradictory_near_labels"):
        assert found[name].examples == [["3.jpg", "4.jpg"]], name
    assert found["contradictory_labels"].num_groups == 0


def test_a_group_in_two_splits():
    together = np.array([0, 0, 2, 3, 4], np.int32)
    found = audit_of(different(5), together=together, splits=np.array([0, 2, 0, 1, 1], np.int8)).findings
    assert found["group_leakage"].examples == [["0.jpg", "1.jpg"]]


def test_images_that_are_odd_on_their_own():
    found = audit_of(
        different(3),
        height=np.array([15, 99, 16], np.int32),
        width=np.array([99, 15, 16], np.int32),
        brightness=np.array([9.9, 10.0, 99], np.float32),
        contrast=np.array([99, 99, 1.9], np.float32),
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
    said = ["duplicates: 2 images in 1 group (the same bytes more than once), such as 0.jpg, 1.jpg"]
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


def test_a_reject_is_in_no_finding_and_no_count():
    contents, splits = [(0, 0, 0, 0)] * 3 + different(3), np.array([0, 0, -1, 0, -1, 2], np.int8)
    leaders = np.array([0, 1, 2, 3, 3, 3], np.int32)
    height = np.array([99, 99, 0, 99, 0, 50])
    audit = audit_of(contents, [0, 0, 1, 1, 1, 1], splits=splits, alike=leaders, together=leaders, height=height)
    assert audit.findings["duplicates"].examples == [["0.jpg", "1.jpg", "3.jpg"]]
    assert audit.findings["near_leakage"].examples == audit.findings["group_leakage"].examples == [["3.jpg", "5.jpg"]]
    assert (audit.num_samples, audit.num_rejects, audit.samples_by_class) == (4, 2, {"a": 2, "b": 2})
    assert audit.findings["tiny_images"].num_images == audit.findings["dark_images"].num_images == 0
    assert audit.height_px == {"min": 50, "median": 99, "max": 99}


def test_counts_that_do_not_add_up_are_our_bug():
    samples = Samples(*[np.zeros(2, np.int32)] * 5, None, {}, None)
    with pytest.raises(AssertionError, match="neither sample nor reject"):
        audit_samples(samples, [], 3, RULE)


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

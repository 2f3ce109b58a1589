"""What was found in the images: counts that must add up, and findings that a person should know of -> audit.json.

Nothing is relabelled and nothing is dropped here: a finding is ignored, said, or stops the stage, as `audit.*` says.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import SPLITS, Reject
from pipeline.errors import SourceError
from pipeline.findings import EXPLANATIONS, Audit, Finding
from pipeline.sections import Policy
from pipeline.sharding.alike import MIN_CONTRAST
from pipeline.sharding.groups import groups_of
from pipeline.sharding.labels import Labels
from pipeline.sharding.split import NO_SPLIT, TRAIN
from pipeline.wording import counted

MAX_EXAMPLES = 20
"""Groups of paths shown for each finding; the counts are whole."""


class AuditRule(NamedTuple):
    """From which value on something is a finding, and what follows from it."""

    max_rejected_fraction: float
    near_duplicate_bits: int | None
    tiny_below_px: int
    dark_below: float
    """Mean grey level, 0 to 255."""
    min_training_samples: int
    policies: dict[str, Policy]
    """By the names of EXPLANATIONS; what is not there warns."""


class Samples(NamedTuple):
    """What became of the records, one entry each; groups are as `groups` has them."""

    labels: Labels
    splits: np.ndarray
    """NO_SPLIT of a reject."""
    equal: np.ndarray
    alike: np.ndarray
    """Groups of the same bytes, and of pictures that look alike."""
    together: np.ndarray
    """The user's groups."""
    look: Callable[[str], np.ndarray]
    """height, width, brightness, contrast (mean and deviation, of 255 grey levels) of every record: a few bytes a
    record, needed one after the other."""
    kinds: dict[str, int]
    paths: Callable[[np.ndarray], list[str]]
    """Of some rows."""


class Audited(NamedTuple):
    audit: Audit
    rows: dict[str, list[np.ndarray]]
    """By finding, the rows of each group of its examples; none of what is ignored."""


def audit_samples(samples: Samples, rejects: Sequence[Reject], num_records: int, rule: AuditRule) -> Audited:
    is_sample = samples.splits != NO_SPLIT
    num_samples = int(is_sample.sum())
    assert num_samples + len(rejects) == num_records, "a record is neither sample nor reject, or both"
    by_class = samples.labels.count(is_sample).tolist()
    by_split = np.bincount(samples.splits[is_sample], minlength=len(SPLITS)).tolist()
    # One image is a group of its own here; a million of them are no million arrays.
    odd = {name: np.flatnonzero(is_odd & is_sample)[:, None] for name, is_odd in _odd_images(samples, rule)}
    groups_of_findings = {**_groups(samples, is_sample), **odd}
    findings = {
        name: _finding(groups, samples.paths, rule.policies.get(name, "warn"))
        for name, groups in groups_of_findings.items()
    }
    findings["rare_classes"] = _rare_classes(samples, rule)
    audit = Audit(
        num_records=num_records,
        num_samples=num_samples,
        num_rejects=len(rejects),
        rejects_by_reason=dict(sorted(Counter(reject.reason for reject in rejects).items())),
        samples_by_class=dict(zip(samples.labels.classes, by_class, strict=True)),
        samples_by_split=dict(zip(SPLITS, by_split, strict=True)),
        samples_by_kind=samples.kinds,
        height_px=_range(samples.look("height")[is_sample]),
        width_px=_range(samples.look("width")[is_sample]),
        findings=findings,
    )
    said = {name: groups for name, groups in groups_of_findings.items() if findings[name].policy != "ignore"}
    return Audited(audit, {name: list(groups[:MAX_EXAMPLES]) for name, groups in said.items()})


def warnings(audit: Audit) -> list[str]:
    """A line for each finding that is to be said."""
    findings = audit.findings.items()
    return [_line(name, each) for name, each in findings if each.num_groups and each.policy == "warn"]


def is_refused(audit: Audit, max_rejected_fraction: float) -> bool:
    """Whether nothing may be written: too many rejects, or a finding that is to stop the stage."""
    return _has_too_many_rejects(audit, max_rejected_fraction) or bool(_fatal(audit))


def _has_too_many_rejects(audit: Audit, max_rejected_fraction: float) -> bool:
    return audit.num_rejects > max_rejected_fraction * audit.num_records


def _fatal(audit: Audit) -> dict[str, Finding]:
    return {name: each for name, each in audit.findings.items() if each.num_groups and each.policy == "fail"}


def refusal(
    audit: Audit, rejects: Sequence[Reject], max_rejected_fraction: float, audit_path: str, rejects_path: str
) -> SourceError:
    """The error for the user, when `is_refused`."""
    if not _has_too_many_rejects(audit, max_rejected_fraction):
        fatal = _fatal(audit)
        lines = "\n".join(f"  {_line(name, each)}" for name, each in fatal.items())
        return SourceError(
            f"The images hold what audit.* in params.yaml does not allow:\n{lines}\n{audit_path} lists them; mend the "
            f"source, or set {', '.join(f'audit.policies.{name}' for name in fatal)} to warn."
        )
    first = "\n".join(f"  {reject.path}: {reject.detail}" for reject in rejects[:3])
    return SourceError(
        f"{len(rejects)} of {audit.num_records} images cannot be used, more than audit.max_rejected_fraction="
        f"{max_rejected_fraction} allows. The first of them:\n{first}\n{rejects_path} lists them all; mend or delete "
        "them, or raise the fraction."
    )


def _groups(samples: Samples, is_sample: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Groups of rows that are the same in one way and, for some findings, differ in another."""
    same, alike = groups_of(samples.equal, is_sample), groups_of(samples.alike, is_sample)
    # A group of equal bytes is alike, too: it is said once.
    near = [rows for rows in alike if _differ(samples.equal, rows)]
    labels, splits = samples.labels.codes, samples.splits
    return {
        "duplicates": same,
        "near_duplicates": near,
        "contradictory_labels": [rows for rows in same if _differ(labels, rows)],
        "contradictory_near_labels": [rows for rows in near if _differ(labels, rows)],
        "leakage": [rows for rows in same if _differ(splits, rows)],
        "near_leakage": [rows for rows in near if _differ(splits, rows)],
        "group_leakage": [rows for rows in groups_of(samples.together, is_sample) if _differ(splits, rows)],
    }


def _odd_images(samples: Samples, rule: AuditRule) -> Iterator[tuple[str, np.ndarray]]:
    """bool [num_records]: images that are findings on their own."""
    yield "tiny_images", np.minimum(samples.look("height"), samples.look("width")) < rule.tiny_below_px
    yield "dark_images", samples.look("brightness") < rule.dark_below
    yield "blank_images", samples.look("contrast") < MIN_CONTRAST


def _rare_classes(samples: Samples, rule: AuditRule) -> Finding:
    rare = np.flatnonzero(samples.labels.count(samples.splits == TRAIN) < rule.min_training_samples).tolist()
    return Finding(
        policy=rule.policies.get("rare_classes", "warn"),
        num_groups=len(rare),
        num_images=int((samples.labels.has_any(rare) & (samples.splits != NO_SPLIT)).sum()),
        examples=[[samples.labels.classes[label]] for label in rare[:MAX_EXAMPLES]],
    )


def _differ(values: np.ndarray, rows: np.ndarray) -> bool:
    return bool((values[rows] != values[rows[0]]).any())


def _finding(groups: Sequence[np.ndarray], paths: Callable[[np.ndarray], list[str]], policy: Policy) -> Finding:
    return Finding(
        policy=policy,
        num_groups=len(groups),
        num_images=sum(map(len, groups)),
        examples=[paths(rows[:MAX_EXAMPLES]) for rows in groups[:MAX_EXAMPLES]],
    )


def _line(name: str, finding: Finding) -> str:
    examples = ", ".join(finding.examples[0][:2]).replace("\n", "\\n")
    return f"{name}: {_extent(name, finding)} ({EXPLANATIONS[name]}), such as {examples}"


def _extent(name: str, finding: Finding) -> str:
    if name == "rare_classes":
        return counted(finding.num_groups, "class")
    if finding.num_groups == finding.num_images:
        return counted(finding.num_images, "image")
    return f"{counted(finding.num_images, 'image')} in {counted(finding.num_groups, 'group')}"


def _range(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}

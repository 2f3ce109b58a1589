"""The report's audit section: what sharding found in the images of all splits, and pictures of it."""

from dataclasses import dataclass

from pipeline.findings import EXPLANATIONS, Audit, AuditPictures, Picture


@dataclass(frozen=True)
class Row:
    name: str
    """In words."""
    explanation: str
    num_images: int
    num_groups: int | None
    """None where every image is a finding of its own."""
    policy: str
    groups: list["Group"]
    num_more: int
    """Groups, or images that are findings of their own, that are not shown."""


@dataclass(frozen=True)
class Group:
    pictures: list[Picture]
    num_more: int
    """Images of the group that are not shown."""


def found_rows(audit: Audit, pictures: AuditPictures) -> list[Row]:
    """The findings that there are, in the order of EXPLANATIONS."""
    return [_row(name, audit, pictures) for name in EXPLANATIONS if audit.findings[name].num_groups]


def absent_names(audit: Audit) -> list[str]:
    """In words, what was looked for and not found."""
    return [_words(name) for name in EXPLANATIONS if not audit.findings[name].num_groups]


def _row(name: str, audit: Audit, pictures: AuditPictures) -> Row:
    finding, drawn = audit.findings[name], pictures.examples.get(name, [])
    is_single = name != "rare_classes" and finding.num_groups == finding.num_images
    groups = [Group(each, len(paths) - len(each)) for each, paths in zip(drawn, finding.examples, strict=False) if each]
    if is_single and groups:  # one row of pictures instead of many rows of one
        groups = [Group([picture for group in groups for picture in group.pictures], 0)]
    num_shown = sum(len(group.pictures) for group in groups) if is_single else len(groups)
    return Row(
        name=_words(name),
        explanation=EXPLANATIONS[name],
        num_images=finding.num_images,
        num_groups=None if is_single else finding.num_groups,
        policy=finding.policy,
        groups=groups,
        num_more=finding.num_groups - num_shown if groups else 0,
    )


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()

"""What sharding found in the images: data/audit.json, and the pictures of it that lie among the shards."""

from pipeline.artifacts import Artifact
from pipeline.sections import Policy

EXPLANATIONS = {
    "duplicates": "the same bytes more than once",
    "near_duplicates": "nearly the same picture, in other bytes",
    "contradictory_labels": "the same bytes under more than one label",
    "contradictory_near_labels": "nearly the same picture under more than one label",
    "leakage": "the same bytes in more than one split",
    "near_leakage": "nearly the same picture in more than one split",
    "group_leakage": "one group in more than one split",
    "tiny_images": "a side under audit.tiny_below_px",
    "dark_images": "brightness under audit.dark_below",
    "blank_images": "hardly anything but one grey",
    "rare_classes": "fewer training samples than audit.min_training_samples",
}
"""The findings, in the order of the report."""


class Finding(Artifact):
    policy: Policy
    num_groups: int
    num_images: int
    examples: list[list[str]]
    """Paths, a list for each group; of rare_classes the names of the classes."""


class Audit(Artifact):
    """data/audit.json"""

    num_records: int
    num_samples: int
    num_rejects: int
    rejects_by_reason: dict[str, int]
    samples_by_class: dict[str, int]
    samples_by_split: dict[str, int]
    samples_by_kind: dict[str, int]
    """File format and kind of pixels of the sources: `PNG RGBA`."""
    height_px: dict[str, float]
    width_px: dict[str, float]
    """min, median and max of the samples' sources."""
    findings: dict[str, Finding]
    """By the names of EXPLANATIONS."""


class Picture(Artifact):
    """A small copy of one image of an example."""

    path: str
    class_name: str
    split: str
    height: int
    width: int
    """Of the copy, in pixels."""
    data_uri: str


class AuditPictures(Artifact):
    """data/shards/audit_pictures.json"""

    examples: dict[str, list[list[Picture]]]
    """By finding, the first images of its first groups."""

"""Audits as the shard stage would leave them."""

import base64

import simplejpeg
from scenes import scene

from pipeline.findings import EXPLANATIONS, Audit, AuditPictures, Finding, Picture

NO_PICTURES = AuditPictures(examples={})


def audit_with(**num_groups: tuple[int, int]) -> Audit:
    """By finding its groups and images; of the others none."""
    counts = dict.fromkeys(EXPLANATIONS, (0, 0)) | num_groups
    return Audit(
        num_records=9,
        num_samples=9,
        num_rejects=0,
        rejects_by_reason={},
        samples_by_class={},
        samples_by_split={},
        samples_by_kind={},
        height_px={},
        width_px={},
        findings={
            name: Finding(policy="warn", num_groups=groups, num_images=images, examples=_examples(groups, images))
            for name, (groups, images) in counts.items()
        },
    )


def _examples(num_groups: int, num_images: int) -> list[list[str]]:
    """The first group has all that the others, of two or of one, leave."""
    size = 1 if num_groups == num_images else 2
    sizes = [num_images - size * (num_groups - 1), *[size] * (num_groups - 1)] if num_groups else []
    return [[f"{group}/{number}.jpg" for number in range(each)] for group, each in enumerate(sizes)]


def picture(content: int, path: str, class_name: str = "cat", split: str = "train") -> Picture:
    data = base64.b64encode(simplejpeg.encode_jpeg(scene(content), quality=50)).decode()
    height, width = scene(content).shape[:2]
    uri = f"data:image/jpeg;base64,{data}"
    return Picture(path=path, class_name=class_name, split=split, height=height, width=width, data_uri=uri)

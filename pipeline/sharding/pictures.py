"""Small pictures of what the audit found, so that a person sees in the report what is meant.

Encoded anew: upright, and free of whatever else the originals carry (position, camera, comments).
"""

import base64
from typing import NamedTuple

import numpy as np
import simplejpeg

from pipeline.artifacts import SPLITS
from pipeline.errors import ImageError
from pipeline.findings import AuditPictures, Picture
from pipeline.imaging.channels import as_rgb
from pipeline.imaging.decode import decode
from pipeline.imaging.resizing import resize
from pipeline.sharding.labels import Labels
from pipeline.sharding.reading import read_image
from pipeline.sharding.records import Facts, FactsFile

PICTURES = "audit_pictures.json"
"""Beside the index."""

LONG_SIDE_PX = 160
JPEG_QUALITY = 80
MAX_GROUPS, MAX_IMAGES = 6, 4
"""Of each finding, and of each of its groups: some hundred pictures of some kilobytes at most."""


class Source(NamedTuple):
    """Where the images are, and what they were taken for."""

    image_root: str
    facts: FactsFile
    labels: Labels
    splits: np.ndarray


def draw_pictures(groups_of_findings: dict[str, list[np.ndarray]], source: Source) -> AuditPictures:
    """Of the rows of each finding's groups; an image that can no longer be read is left out."""
    examples = {
        name: [_draw_group(rows[:MAX_IMAGES], source) for rows in groups[:MAX_GROUPS]]
        for name, groups in groups_of_findings.items()
    }
    return AuditPictures(examples={name: groups for name, groups in examples.items() if groups})


def _draw_group(rows: np.ndarray, source: Source) -> list[Picture]:
    drawn = (_draw(row, facts, source) for row, facts in zip(rows.tolist(), source.facts.rows(rows), strict=True))
    return [picture for picture in drawn if picture is not None]


def _draw(row: int, facts: Facts, source: Source) -> Picture | None:
    try:
        image_HWC = as_rgb(decode(read_image(source.image_root, facts.path), min_short_side_px=LONG_SIDE_PX))
    except ImageError:
        return None
    height, width = _size(*image_HWC.shape[:2])
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(resize(image_HWC, height, width)), quality=JPEG_QUALITY)
    return Picture(
        path=facts.path,
        class_name=source.labels.name(row),
        split=SPLITS[source.splits[row]],
        height=height,
        width=width,
        data_uri="data:image/jpeg;base64," + base64.b64encode(data).decode(),
    )


def _size(height: int, width: int) -> tuple[int, int]:
    long = max(height, width, LONG_SIDE_PX)
    return max(1, height * LONG_SIDE_PX // long), max(1, width * LONG_SIDE_PX // long)

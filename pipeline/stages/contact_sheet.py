"""A contact sheet as one picture: of each class some samples, of each sample its views in a row above its path."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw

TILE_PX = 104
GAP_PX = 4
BETWEEN_PX = 16
MARGIN_PX = 24
MAX_WIDTH_PX = 1600
MAX_HEIGHT_PX = 16_000
"""Viewers refuse much longer pictures: classes that have no room are left out."""

HEADING_PX, TITLE_PX, CAPTION_PX = 28, 20, 13
TOP_PX = MARGIN_PX + 2 * HEADING_PX + BETWEEN_PX
"""Where the first class begins."""

PAPER, INK, FAINT = "white", "black", "dimgray"


class DrawnSample(NamedTuple):
    path: str
    views: "list[np.ndarray]"
    """Each [H, W, 3] of uint8: first what evaluation sees."""


class DrawnClass(NamedTuple):
    title: str
    samples: Sequence[DrawnSample]


def draw_sheet(heading: str, legend: str, classes: Sequence[DrawnClass]) -> "tuple[Image.Image, int]":
    """The picture, and how many of the classes it has room for."""
    from PIL import Image, ImageDraw

    num_views = max((len(sample.views) for each in classes for sample in each.samples), default=1)
    block_px = num_views * (TILE_PX + GAP_PX) - GAP_PX + BETWEEN_PX
    num_columns = max(1, (MAX_WIDTH_PX - 2 * MARGIN_PX + BETWEEN_PX) // block_px)
    top_px, tops_px = TOP_PX, []
    for each in classes:
        height_px = _title_px() + -(-len(each.samples) // num_columns) * _row_px()
        if tops_px and top_px + height_px > MAX_HEIGHT_PX - MARGIN_PX:
            break
        tops_px.append(top_px)
        top_px += height_px
    sheet = Image.new("RGB", (2 * MARGIN_PX + num_columns * block_px - BETWEEN_PX, top_px + MARGIN_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    _write(pen, heading, MARGIN_PX, MARGIN_PX, HEADING_PX, INK, sheet.width - 2 * MARGIN_PX)
    legend_px = MARGIN_PX + HEADING_PX + GAP_PX
    _write(pen, legend, MARGIN_PX, legend_px, CAPTION_PX, FAINT, sheet.width - 2 * MARGIN_PX)
    for each, class_px in zip(classes, tops_px, strict=False):
        _write(pen, each.title, MARGIN_PX, class_px, TITLE_PX, INK, sheet.width - 2 * MARGIN_PX)
        for number, sample in enumerate(each.samples):
            left_px = MARGIN_PX + number % num_columns * block_px
            _draw_sample(
                sheet, pen, sample, left_px, class_px + _title_px() + number // num_columns * _row_px(), block_px
            )
    return sheet, len(tops_px)


def _draw_sample(
    sheet: "Image.Image", pen: "ImageDraw.ImageDraw", sample: DrawnSample, left_px: int, top_px: int, block_px: int
) -> None:
    from PIL import Image

    for number, image_HW3 in enumerate(sample.views):
        tile = Image.fromarray(image_HW3).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left_px + number * (TILE_PX + GAP_PX), top_px))
    pen.rectangle((left_px - 2, top_px - 2, left_px + TILE_PX + 1, top_px + TILE_PX + 1), outline=INK, width=2)
    _write(pen, sample.path, left_px, top_px + TILE_PX + 4, CAPTION_PX, FAINT, block_px - BETWEEN_PX)


def _write(
    pen: "ImageDraw.ImageDraw", text: str, left_px: int, top_px: int, size_px: int, ink: str, room_px: int
) -> None:
    """One line, cut where the room ends. The font has Latin letters; others are written as their codes."""
    from PIL import ImageFont

    font, text = ImageFont.load_default(size_px), text.encode("latin-1", "backslashreplace").decode("latin-1")
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if pen.textlength(text, font) > room_px:
        while text and pen.textlength(f"{text}...", font) > room_px:
            text = text[:-1]
        text += "..."
    pen.text((left_px, top_px), text, fill=ink, font=font)


def _title_px() -> int:
    return BETWEEN_PX + TITLE_PX + 12


def _row_px() -> int:
    return TILE_PX + 4 + CAPTION_PX + BETWEEN_PX

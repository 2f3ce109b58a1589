"""The first batch as the model sees it, drawn for the run's page: what augmentation does is best checked by eye."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.loading.batches import Batch

NUM_COLUMNS, NUM_ROWS = 8, 4
TILE_PX, CAPTION_PX, GAP_PX = 128, 18, 6
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)


def drawing_first(batches: Iterator[Batch], path: Path, classes: Sequence[str]) -> Iterator[Batch]:
    """The same batches; the first is drawn to `path`, unless a picture lies there already."""
    for number, batch in enumerate(batches):
        if number == 0 and not path.exists():
            _write(draw(batch.pictures(), _captions(batch, classes)), path)
        yield batch


def _captions(batch: Batch, classes: Sequence[str]) -> list[str]:
    if batch.labels_B.ndim == 1:
        return [classes[label] for label in batch.labels_B]
    return [", ".join(classes[label] for label in np.flatnonzero(hot_K)) for hot_K in batch.labels_B.numpy()]


def draw(images_HWC: Iterable[np.ndarray], captions: Sequence[str]) -> Image.Image:
    """A sheet of up to NUM_COLUMNS x NUM_ROWS tiles, uint8 RGB images with their captions below."""
    count = min(len(captions), NUM_COLUMNS * NUM_ROWS)
    columns, rows = min(count, NUM_COLUMNS), -(-count // NUM_COLUMNS)
    step_x, step_y = TILE_PX + GAP_PX, TILE_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (columns * step_x + GAP_PX, rows * step_y + GAP_PX), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION_PX - 5)
    for number, (image_HWC, caption) in enumerate(zip(images_HWC, captions[:count], strict=False)):
        row, column = divmod(number, NUM_COLUMNS)
        left, top = GAP_PX + column * step_x, GAP_PX + row * step_y
        way = Image.Resampling.NEAREST if image_HWC.shape[0] < TILE_PX else Image.Resampling.BOX
        sheet.paste(Image.fromarray(image_HWC).resize((TILE_PX, TILE_PX), way), (left, top))
        pen.text((left, top + TILE_PX + 1), _fitting(caption, pen, font), INK, font)
    return sheet


def _fitting(caption: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> str:
    """The caption in one line no wider than a tile."""
    line = " ".join(caption.split())
    if pen.textlength(line, font) <= TILE_PX:
        return line
    while line and pen.textlength(line + "…", font) > TILE_PX:
        line = line[:-1]
    return line + "…"


def _write(sheet: Image.Image, path: Path) -> None:
    """Whole or not at all: the driver sends what it finds. No room for a picture is no reason not to train."""
    partial = path.with_name(f".{path.name}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(partial, "PNG")
        partial.replace(path)

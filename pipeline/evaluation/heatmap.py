"""The confusion matrix: labelled cells up to MAX_LABELLED classes, a compact picture beyond.

Shapes: K classes, S sides of the compact picture. Shade is the share of the actual class: blue where the model is
right, orange where it is wrong; text stays readable in both colour schemes because shade is opacity.
"""

import base64
import io
import math

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipeline.evaluation.metrics import Confusion

MAX_LABELLED = 30
MAX_SIDE = 400
MAX_LABEL = 18
HIT_RGB = (42, 120, 200)
MISS_RGB = (224, 104, 24)


def matrix(pairs: Confusion, classes: list[str]) -> Markup:
    """SVG with a row per actual class, a column per predicted one and the counts in the cells."""
    num_classes = len(classes)
    cell = min(120.0, max(24.0, 460 / num_classes))
    longest = max(min(len(name), MAX_LABEL) for name in classes)
    left = 34 + 7.2 * longest
    slanted = cell < 7.2 * longest + 6
    top = 34 + (5.4 * longest + 8 if slanted else 20)
    width = left + cell * num_classes + (5.2 * longest if slanted else 4)
    height = top + cell * num_classes + 4
    count_KK = np.zeros((num_classes, num_classes), np.int64)
    count_KK[pairs.actual_P, pairs.predicted_P] = pairs.count_P
    support_K = count_KK.sum(axis=1)
    parts = [
        Markup('<text class="label middle" x="{:.1f}" y="14">predicted</text>').format(left + cell * num_classes / 2),
        Markup('<text class="label middle" transform="translate(12 {:.1f}) rotate(-90)">actual</text>').format(
            top + cell * num_classes / 2
        ),
    ]
    for i, name in enumerate(classes):
        middle = (i + 0.5) * cell
        parts.append(_text(left - 10, top + middle, "tick end", name))
        if slanted:
            parts.append(_text(left + middle, top - 10, "tick", name, angle=-45))
        else:
            parts.append(_text(left + middle, top - 14, "tick middle", name))
        for j in range(num_classes):
            share = count_KK[i, j] / support_K[i] if support_K[i] else 0.0
            parts.append(_cell(left + j * cell, top + i * cell, cell, int(count_KK[i, j]), share, name, classes[j]))
    words = "Confusion matrix with the actual class in rows and the predicted class in columns."
    return Markup(
        '<svg class="matrix" viewBox="0 0 {0:.0f} {1:.0f}" style="width:{0:.0f}px" role="img" aria-label="{2}">'
        "{3}</svg>"
    ).format(width, height, words, Markup("").join(parts))


def compact(pairs: Confusion, num_classes: int) -> Markup:
    """A picture with one pixel a cell; beyond MAX_SIDE classes neighbouring classes share a pixel."""
    side = min(num_classes, MAX_SIDE)
    row_P, column_P = pairs.actual_P * side // num_classes, pairs.predicted_P * side // num_classes
    count_SS = np.zeros((side, side))
    np.add.at(count_SS, (row_P, column_P), pairs.count_P)
    share_SS = count_SS / np.maximum(1, count_SS.sum(axis=1, keepdims=True))
    pixels_SS4 = np.zeros((side, side, 4), np.uint8)
    pixels_SS4[..., :3] = np.where(np.eye(side, dtype=bool)[..., None], HIT_RGB, MISS_RGB)
    # The root and the floor lift single mistakes, which a linear shade would hide.
    pixels_SS4[..., 3] = np.where(count_SS > 0, np.round(80 + 175 * np.sqrt(share_SS)), 0)
    out = io.BytesIO()
    Image.fromarray(pixels_SS4, "RGBA").save(out, "PNG", optimize=False)
    data = base64.b64encode(out.getvalue()).decode()
    words = f"Confusion matrix of {num_classes} classes: rows are actual, columns predicted classes, in index order."
    return Markup('<img class="compact" alt="{}" src="data:image/png;base64,{}">').format(words, data)


def _cell(x: float, y: float, cell: float, count: int, share: float, actual: str, predicted: str) -> Markup:
    """An empty cell has no text; a mistake's shade is lifted by a root so that single ones are seen."""
    kind = "hit" if actual == predicted else "miss"
    opacity = share if kind == "hit" else math.sqrt(share)
    text = Markup("")
    if count:
        shade = "deep" if opacity > 0.85 else "middling" if opacity > 0.55 else "pale"
        size = min(15.0, cell * (0.42 if count < 1000 else 0.32))
        text = Markup('<text class="middle {}" x="{:.1f}" y="{:.1f}" dy="0.35em" font-size="{:.1f}">{}</text>').format(
            shade, x + cell / 2, y + cell / 2, size, f"{count:,}" if cell > 44 else str(count)
        )
    title = f"{actual} taken for {predicted}" if kind == "miss" else f"{actual} recognised"
    return Markup(
        '<g><title>{}: {:,} ({:.1f} %)</title><rect class="cell" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill-opacity="{:.3f}"/>{}</g>'
    ).format(title, count, 100 * share, x, y, cell - 1.5, cell - 1.5, kind, x, y, cell - 1.5, cell - 1.5, opacity, text)


def _text(x: float, y: float, kind: str, name: str, angle: int = 0) -> Markup:
    short = name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"
    return Markup(
        '<text class="{}" transform="translate({:.1f} {:.1f}) rotate({})" dy="0.35em"><title>{}</title>{}</text>'
    ).format(kind, x, y, angle, name, short)

"""Drawn pictures with any number of shapes, none among them: a multi-label set in miniature, learnable at once."""

import json
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

CLASSES = ("bar", "disc", "ring")
"""In the order of their labels."""

COLORS = {"bar": (40, 170, 60), "disc": (200, 50, 40), "ring": (50, 70, 210)}
SIDE_PX = 48


def names_in(number: int) -> list[str]:
    """The shapes of a picture, in no order; every combination comes as often, and the classes are not alike."""
    return [name for place, name in enumerate(CLASSES) if number % 8 >> place & 1][::-1]


def draw(number: int) -> bytes:
    """Equal bytes for equal numbers, others for others."""
    random = np.random.default_rng(number)
    image_HWC = np.clip(random.normal(128, 10, (SIDE_PX, SIDE_PX, 3)), 0, 255).astype(np.uint8)
    for name in names_in(number):
        x, y = random.integers(10, SIDE_PX - 10, 2).tolist()
        size = int(random.integers(6, 10))
        if name == "bar":
            cv2.rectangle(image_HWC, (x - size, y - 3), (x + size, y + 3), COLORS[name], cv2.FILLED)
        else:
            cv2.circle(image_HWC, (x, y), size, COLORS[name], cv2.FILLED if name == "disc" else 3)
    return simplejpeg.encode_jpeg(image_HWC, quality=90)


def write(folder: Path, num_pictures: int, first: int = 0) -> str:
    """The path of a table of them, whose labels are lists."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(first, first + num_pictures):
        name = f"images/{number:05d}.jpg"
        (folder / name).write_bytes(draw(number))
        rows.append({"image": name, "label": names_in(number)})
    table = folder / "shapes.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(table)

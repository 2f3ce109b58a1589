"""The demo set: X's and O's as 64-pixel JPEG files in five difficulties, drawn from nothing but a seed.

Only arithmetic that rounds alike on every machine is used on arrays (no sines, no matrix products), so that a seed
means the same files everywhere. The caller provides a private folder and renames it.
"""

import csv
import io
import json
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

SIDE_PX = 64
CLASSES = ("O", "X")
DIFFICULTIES = ("clean", "shifted", "shrunken", "rotated", "deformed_noisy")
DRAWING_VERSION = 1
"""Goes up with every change of the pixels: an older set on disk is then drawn anew."""

RECORDS = "records.csv"
MARKER = "demo.json"
JPEG_QUALITY = 92


def has_demo_set(folder: Path, images_per_class: int, seed: int) -> bool:
    """Whether the folder holds exactly this set; the marker is written last."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8")) == _marker(images_per_class, seed)
    except (OSError, ValueError):
        return False


def write_demo_set(folder: Path, images_per_class: int, seed: int) -> None:
    """`O/00000.jpg` ..., `X/00000.jpg` ... and records.csv with the columns image, label and difficulty."""
    rows = []
    for class_name in CLASSES:
        (folder / class_name).mkdir(parents=True)
        for number in range(images_per_class):
            difficulty = DIFFICULTIES[number % len(DIFFICULTIES)]
            name = f"{class_name}/{number:05d}.jpg"
            _write(folder / name, draw(class_name, difficulty, number, seed))
            rows.append((name, class_name, difficulty))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("image", "label", "difficulty"), *rows])
    _write(folder / RECORDS, text.getvalue().encode())
    _write(folder / MARKER, json.dumps(_marker(images_per_class, seed), indent=2).encode())


def draw(class_name: str, difficulty: str, number: int, seed: int) -> bytes:
    """One image as JPEG bytes."""
    rng = np.random.Generator(np.random.PCG64([seed % 2**64, CLASSES.index(class_name), number]))
    y_HW, x_HW = _coordinates(rng, difficulty)
    distance_HW = _distance_to_o(rng, y_HW, x_HW) if class_name == "O" else _distance_to_x(rng, y_HW, x_HW)
    half_stroke = rng.uniform(0.07, 0.16)
    softness = rng.uniform(0.04, 0.08)
    ink_HW = np.clip((half_stroke - distance_HW) / softness + 0.5, 0.0, 1.0)
    pixels_HWC = _paint(rng, ink_HW, difficulty)
    out = io.BytesIO()
    Image.fromarray(pixels_HWC).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def _coordinates(rng: np.random.Generator, difficulty: str) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel lies in the drawing's own frame, in which the sign fills -1 to 1."""
    scale, angle, shift = rng.uniform(0.62, 0.82), rng.uniform(-0.1, 0.1), rng.uniform(-0.06, 0.06, 2)
    if difficulty == "shifted":
        scale, shift = rng.uniform(0.5, 0.6), rng.uniform(-0.4, 0.4, 2)
    elif difficulty == "shrunken":
        scale = rng.uniform(0.28, 0.42)
    elif difficulty in ("rotated", "deformed_noisy"):
        angle = rng.uniform(-math.pi / 4, math.pi / 4)
    axis = (np.arange(SIDE_PX) + 0.5) / (SIDE_PX / 2) - 1.0
    y_HW, x_HW = np.broadcast_to(axis[:, None] - shift[0], (SIDE_PX, SIDE_PX)), axis[None, :] - shift[1]
    if difficulty == "deformed_noisy":
        y_HW, x_HW = y_HW + _smooth_field(rng, 0.13), x_HW + _smooth_field(rng, 0.13)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    return cos * y_HW - sin * x_HW, sin * y_HW + cos * x_HW


def _smooth_field(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """[SIDE_PX, SIDE_PX] within ± amplitude, bent by 5 x 5 random points."""
    points = rng.uniform(-amplitude, amplitude, (5, 5))
    position = np.arange(SIDE_PX) * (4.0 / SIDE_PX)
    low = position.astype(int)
    part = position - low
    rows = points[low] * (1.0 - part)[:, None] + points[low + 1] * part[:, None]
    return rows[:, low] * (1.0 - part) + rows[:, low + 1] * part


def _distance_to_o(rng: np.random.Generator, y_HW: np.ndarray, x_HW: np.ndarray) -> np.ndarray:
    radius_y, radius_x = rng.uniform(0.65, 0.95, 2)
    return np.abs(np.sqrt((y_HW / radius_y) ** 2 + (x_HW / radius_x) ** 2) - 1.0) * min(radius_y, radius_x)


def _distance_to_x(rng: np.random.Generator, y_HW: np.ndarray, x_HW: np.ndarray) -> np.ndarray:
    corners = [(y, x) for y, x in ((-1, -1), (1, 1), (-1, 1), (1, -1))]
    ends = [(y * rng.uniform(0.65, 0.95), x * rng.uniform(0.65, 0.95)) for y, x in corners]
    strokes = (_distance_to_line(y_HW, x_HW, *ends[0], *ends[1]), _distance_to_line(y_HW, x_HW, *ends[2], *ends[3]))
    return np.minimum(*strokes)


def _distance_to_line(y_HW: np.ndarray, x_HW: np.ndarray, y0: float, x0: float, y1: float, x1: float) -> np.ndarray:
    dy, dx = y1 - y0, x1 - x0
    along_HW = np.clip(((y_HW - y0) * dy + (x_HW - x0) * dx) / (dy * dy + dx * dx), 0.0, 1.0)
    return np.sqrt((y_HW - y0 - along_HW * dy) ** 2 + (x_HW - x0 - along_HW * dx) ** 2)


def _paint(rng: np.random.Generator, ink_HW: np.ndarray, difficulty: str) -> np.ndarray:
    """uint8 [SIDE_PX, SIDE_PX, 3]: the ink over a sloping background, in any colours far enough apart."""
    is_hard = difficulty == "deformed_noisy"
    paper, ink = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
    least = 70.0 if is_hard else 90.0
    while abs(float((paper - ink).sum())) / 3 < least:
        paper, ink = rng.uniform(20, 235, 3), rng.uniform(20, 235, 3)
    axis = np.arange(SIDE_PX) / (SIDE_PX - 1) - 0.5
    slope = rng.uniform(-30, 30, 2)
    paper_HWC = paper + (slope[0] * axis[:, None] + slope[1] * axis[None, :])[:, :, None]
    pixels_HWC = paper_HWC + (ink - paper_HWC) * ink_HW[:, :, None]
    # The sum of four uniform numbers stands for a normal one, whose generator needs logarithms.
    strength = rng.uniform(10, 24) if is_hard else rng.uniform(0, 6)
    noise_HWC = rng.random((4, SIDE_PX, SIDE_PX, 3)).sum(axis=0) - 2.0
    return np.clip(pixels_HWC + noise_HWC * (strength * math.sqrt(3.0)), 0, 255).astype(np.uint8)


def _write(path: Path, content: bytes) -> None:
    """The time of the change is fixed: scan reads it, and its manifest must not depend on when the set was drawn."""
    path.write_bytes(content)
    os.utime(path, (0, 0))


def _marker(images_per_class: int, seed: int) -> dict:
    return {"images_per_class": images_per_class, "seed": seed, "drawing_version": DRAWING_VERSION}

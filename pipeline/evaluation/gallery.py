"""The surest mistakes as pictures that stand inside the page."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.imaging.channels import as_rgb
from pipeline.imaging.decode import decode
from pipeline.imaging.resizing import limit_short_side

SHORT_SIDE_PX = 256
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Mistake:
    path: str
    actual: str
    predicted: str
    probability: float
    label_probability: float
    height: int
    width: int
    """Of the picture in the page, in pixels."""
    data_uri: str


@dataclass(frozen=True)
class WrongAnswer:
    """Of a multi-label set: the class about which the model was most sure and wrong on this image."""

    path: str
    class_name: str
    is_labelled: bool
    """Whether the image has the class and the model says no, rather than the other way round."""
    probability: float
    labels: str
    predicted: str
    """All of them, in words."""
    height: int
    width: int
    data_uri: str


def surest_wrong_answers(
    table: pa.Table,
    classes: list[str],
    thresholds: list[float],
    num_images: int,
    read_images: Callable[[Iterable[int]], dict[int, bytes]],
) -> list[WrongAnswer]:
    """The images with a wrong answer furthest from its class's threshold, surest first, each with that answer."""
    wrong = table.filter(pc.invert(table["correct"])).to_pylist()
    surest = sorted(((*_surest(row, thresholds), row) for row in wrong), key=lambda each: (-each[0], each[2]["key"]))
    chosen = surest[:num_images]
    images = read_images([row["key"] for _, _, row in chosen])
    return [
        WrongAnswer(
            path=row["path"],
            class_name=classes[label],
            is_labelled=label in row["labels"],
            probability=row["probabilities"][label],
            labels=_in_words(row["labels"], classes),
            predicted=_in_words(row["predicted"], classes),
            **_picture(images[row["key"]]),
        )
        for _, label, row in chosen
    ]


def _surest(row: dict, thresholds: list[float]) -> tuple[float, int]:
    """How far the furthest wrong answer lies from its threshold, and its class."""
    wrong = set(row["labels"]) ^ set(row["predicted"])
    return max((abs(row["probabilities"][label] - thresholds[label]), label) for label in wrong)


def _in_words(labels: list[int], classes: list[str]) -> str:
    return ", ".join(classes[label] for label in labels) or "no class"


def surest_mistakes(
    table: pa.Table, classes: list[str], num_mistakes: int, read_images: Callable[[Iterable[int]], dict[int, bytes]]
) -> list[Mistake]:
    """The wrong answers with the highest probability, surest first; `read_images` gives encoded images by key."""
    wrong = table.filter(pc.invert(table["correct"]))
    surest = wrong.sort_by([("probability", "descending"), ("key", "ascending")]).slice(0, num_mistakes).to_pylist()
    images = read_images([row["key"] for row in surest])
    return [
        Mistake(
            path=row["path"],
            actual=classes[row["label"]],
            predicted=classes[row["predicted"]],
            probability=row["probability"],
            label_probability=row["label_probability"],
            **_picture(images[row["key"]]),
        )
        for row in surest
    ]


def _picture(data: bytes) -> dict:
    """Encoded anew: small, upright, and free of whatever else the original carried (position, camera, comments)."""
    image_HWC = limit_short_side(as_rgb(decode(data)), SHORT_SIDE_PX)
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return {
        "height": image_HWC.shape[0],
        "width": image_HWC.shape[1],
        "data_uri": "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(),
    }

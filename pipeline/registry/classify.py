"""Image bytes to label and probabilities with an exported model: what `predict` and the served model share."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.errors import ImageError
from pipeline.imaging import channels, decode, resizing
from pipeline.registry import export

IMAGES_PER_BATCH = 32


class Answer(NamedTuple):
    """Label, its probability, and the probability of every class in the order of the labels."""

    label: str
    probability: float
    probabilities: dict[str, float]


class LabelsAnswer(NamedTuple):
    """Of a multi-label model: the classes that it says, the surest first and any number of them, and the probability of
    every class in the order of the labels."""

    labels: list[str]
    probabilities: dict[str, float]


class Classifier:
    """An exported model with its preprocessing."""

    def __init__(self, folder: Path):
        """Raises ArtifactError for a damaged export."""
        self._export = export.load(folder)
        self._channels = channels.Channels(self._export.num_channels, self._export.pixel_dtype)

    def classify(self, images: Iterable[bytes | ImageError]) -> Iterator[Answer | LabelsAnswer | ImageError]:
        """An answer an image, in order; an ImageError in the place of one that cannot be decoded, or was none."""
        images = iter(images)
        while batch := list(itertools.islice(images, IMAGES_PER_BATCH)):
            views = [self._view(data) for data in batch]
            answers = iter(self._answer([view for view in views if not isinstance(view, ImageError)]))
            yield from (view if isinstance(view, ImageError) else next(answers) for view in views)

    def _view(self, data: bytes | ImageError) -> np.ndarray | ImageError:
        if isinstance(data, ImageError):
            return data
        try:
            image_HWC = channels.check_channels(decode.decode(data), self._channels)
            return resizing.evaluation_view(image_HWC, self._export.input_px)
        except ImageError as exc:
            return exc

    def _answer(self, images_HWC: list[np.ndarray]) -> list[Answer] | list[LabelsAnswer]:
        if not images_HWC:
            return []
        mean = torch.tensor(self._export.mean).view(1, -1, 1, 1)
        std = torch.tensor(self._export.std).view(1, -1, 1, 1)
        images_BCHW = torch.from_numpy(np.stack(images_HWC)).permute(0, 3, 1, 2)
        images_BCHW = images_BCHW.float().div(torch.iinfo(images_BCHW.dtype).max)
        with torch.inference_mode():
            logits_BK = self._export.model((images_BCHW - mean) / std).double()
        if self._export.multi_label:
            return [self._name_all(row) for row in logits_BK.sigmoid().tolist()]
        return [self._name(row) for row in torch.softmax(logits_BK / self._export.temperature, dim=1).tolist()]

    def _name_all(self, row: list[float]) -> LabelsAnswer:
        probabilities = dict(zip(self._export.classes, row, strict=True))
        thresholds = dict(zip(self._export.classes, self._export.thresholds, strict=True))
        said = [name for name, probability in probabilities.items() if probability >= thresholds[name]]
        return LabelsAnswer(sorted(said, key=probabilities.__getitem__, reverse=True), probabilities)

    def _name(self, row: list[float]) -> Answer:
        probabilities = dict(zip(self._export.classes, row, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Answer(label, probabilities[label], probabilities)

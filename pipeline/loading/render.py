"""What becomes of a batch's images: what is cut out of them, and what is made of that.

Native code asks for the crops alone and makes them; the rest is for images that it made, and `write` for those that it
did not. N images, which have places in the batch; B places in all.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.imaging.region import Region
from pipeline.imaging.resizing import centre_square, resize
from pipeline.loading import augment
from pipeline.loading.kept import Encoded


class Render(Protocol):
    """Squares of `side_px`, written into their places of the batch's array, [B, side_px, side_px, C]."""

    def plan(self, crops_N: np.ndarray) -> None:
        """Fills in what is cut out and how it moves; `imaging.crops.CROP`, of which sizes, places and `can_shrink` are
        known."""

    def finish(self, crops_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        """Does what else is to be done to images that were made as planned."""

    def write(self, images: Sequence[Encoded], places_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        """Does all of it."""


class TrainingRender:
    """Random crops, flips and more, decided by draws in [0, 1), float64 [B, num_draws]."""

    def __init__(self, augmentation: augment.Augmentation, side_px: int, draws_BD: np.ndarray):
        self._augmentation, self._side_px, self._draws_BD = augmentation, side_px, draws_BD

    def plan(self, crops_N: np.ndarray) -> None:
        heights_N, widths_N = crops_N["height"].astype(np.int64), crops_N["width"].astype(np.int64)
        draws_ND = self._draws_BD[crops_N["place"]]
        boxes_N4, flips_N2 = augment.plan_crops(self._augmentation, heights_N, widths_N, draws_ND)
        can_shrink_N = crops_N["can_shrink"] != 0
        _fill_in(crops_N, augment.regions_of(boxes_N4, heights_N, widths_N, self._side_px, can_shrink_N))
        crops_N["flip_horizontal"], crops_N["flip_vertical"] = flips_N2.T
        if self._augmentation.shift_fraction > 0.0:
            crops_N["down"], crops_N["right"] = augment.plan_shifts(self._augmentation, self._side_px, draws_ND).T

    def finish(self, crops_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        rest = crops_N[augment.have_more(self._augmentation, self._draws_BD[crops_N["place"]])]
        for place, view in zip(rest["place"], self._views(rest["height"], rest["width"], rest["place"]), strict=True):
            augment.finish(out_BHWC[place], view)

    def write(self, images: Sequence[Encoded], places_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        heights_N, widths_N = np.array([image.size for image in images]).T
        can_shrink_N = np.array([image.can_shrink for image in images])
        views = self._views(heights_N, widths_N, places_N)
        boxes_N4 = np.array([(view.top, view.left, view.height, view.width) for view in views])
        regions_N5 = augment.regions_of(boxes_N4, heights_N, widths_N, self._side_px, can_shrink_N)
        for image, view, region, place in zip(images, views, regions_N5.tolist(), places_N, strict=True):
            augment.apply(image.decoded(Region(*region)), view, self._side_px, out_BHWC[place])

    def _views(self, heights_N: np.ndarray, widths_N: np.ndarray, places_N: np.ndarray) -> list[augment.View]:
        return augment.plan(self._augmentation, heights_N, widths_N, self._side_px, self._draws_BD[places_N])


class EvaluationRender:
    """The largest square in the middle."""

    def __init__(self, side_px: int):
        self._side_px = side_px

    def plan(self, crops_N: np.ndarray) -> None:
        sizes = zip(crops_N["height"].tolist(), crops_N["width"].tolist(), strict=True)
        _fill_in(crops_N, np.array([(*centre_square(*size), 1) for size in sizes]))

    def finish(self, crops_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        pass

    def write(self, images: Sequence[Encoded], places_N: np.ndarray, out_BHWC: np.ndarray) -> None:
        for image, place in zip(images, places_N, strict=True):
            square_HWC = image.decoded(Region(*centre_square(*image.size)))
            resize(square_HWC, self._side_px, self._side_px, out_BHWC[place])


def _fill_in(crops_N: np.ndarray, regions_N5: np.ndarray) -> None:
    for name, column in zip(("top", "left", "rows", "columns", "shrink"), regions_N5.T, strict=True):
        crops_N[name] = column

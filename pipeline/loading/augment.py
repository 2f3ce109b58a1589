"""What augmentation does to a sample, decided by numbers in [0, 1) that belong to (seed, epoch, sample).

Deciding (`plan`; `plan_crops` and `plan_shifts` for crops, flips and shifts alone) needs only the sizes of the images,
is vectorised over a batch, and is apart from doing (`apply`), which runs on the decoded part of one image
(`regions_of`).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.errors import ParamsError
from pipeline.imaging.region import SHRINKS, shrunk_size
from pipeline.imaging.resizing import resize
from pipeline.loading import policy as policies

_NUM_CROP_TRIES = 10
"""Tries for a crop of the wanted area and ratio that lies inside the image; torchvision's RandomResizedCrop makes as
many before it takes the largest centred one."""

_SPANS = np.cumsum([2 * _NUM_CROP_TRIES, 2 + 2 + 3, policies.NUM_DRAWS, policies.NUM_ERASE_DRAWS, 2])

NUM_DRAWS = int(_SPANS[-1])
"""Per sample: area and ratio for each try; top and left, two flips, three of colour; the policy's; the
erasing's; two of the shift. What is new comes last, so that the others keep their values."""

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, RGB


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image."""

    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    horizontal_flip: bool
    vertical_flip: bool
    color_jitter: float
    policy: policies.PolicyName = "none"
    policy_num_ops: int = 2
    policy_magnitude: int = 9
    erase_probability: float = 0.0
    shift_fraction: float = 0.0


@dataclass(frozen=True)
class View:
    """What happens to one image: a crop in pixels, flips, factors of brightness, contrast and saturation, what the
    policy does, a box of the result that is erased, and how far the square moves down and right before colour."""

    top: int
    left: int
    height: int
    width: int
    flip_horizontal: bool
    flip_vertical: bool
    color: tuple[float, float, float] | None
    chains: tuple[policies.Chain, ...] = ()
    erased: tuple[int, int, int, int] | None = None
    shift: tuple[int, int] = (0, 0)


def plan(
    augmentation: Augmentation, heights_B: np.ndarray, widths_B: np.ndarray, side_px: int, draws_BD: np.ndarray
) -> list[View]:
    """The views of images of these sizes that these draws, float64 [B, NUM_DRAWS], decide; the output is `side_px`."""
    boxes_B4, flips_B2 = plan_crops(augmentation, heights_B, widths_B, draws_BD)
    _, rest_BR, policy_BP, erase_BE, *_ = np.split(draws_BD, _SPANS, axis=1)
    jitter = augmentation.color_jitter
    colors = map(tuple, (1.0 + jitter * (2.0 * rest_BR[:, 4:7] - 1.0)).tolist())
    shifts = map(tuple, plan_shifts(augmentation, side_px, draws_BD).tolist())
    plans = zip(boxes_B4.tolist(), flips_B2.tolist(), colors, policy_BP, erase_BE, shifts, strict=True)
    wanted = (augmentation.policy, augmentation.policy_num_ops, augmentation.policy_magnitude, side_px)
    return [
        View(
            *box,
            *flips,
            color if jitter else None,
            policies.plan(*wanted, policy_draws),
            policies.plan_erasing(augmentation.erase_probability, side_px, erase_draws),
            shift,
        )
        for box, flips, color, policy_draws, erase_draws, shift in plans
    ]


def plan_crops(
    augmentation: Augmentation, heights_B: np.ndarray, widths_B: np.ndarray, draws_BD: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of `plan` what comes first: boxes, int64 [B, 4] of top, left, height, width; flips, bool [B, 2] of horizontal,
    vertical."""
    tries_BT2 = draws_BD[:, : _SPANS[0]].reshape(-1, _NUM_CROP_TRIES, 2)
    places_B2, flips_B2 = np.split(draws_BD[:, _SPANS[0] : _SPANS[0] + 4], 2, axis=1)
    boxes_B4 = _crop_boxes(augmentation, heights_B, widths_B, tries_BT2, places_B2)
    return boxes_B4, (flips_B2 < 0.5) & [augmentation.horizontal_flip, augmentation.vertical_flip]


def plan_shifts(augmentation: Augmentation, side_px: int, draws_BD: np.ndarray) -> np.ndarray:
    """Of `plan` how far the squares move down and right, int64 [B, 2]."""
    shift_B2 = draws_BD[:, _SPANS[3] : _SPANS[4]]
    return np.rint((2.0 * shift_B2 - 1.0) * augmentation.shift_fraction * side_px).astype(np.int64)


def have_more(augmentation: Augmentation, draws_BD: np.ndarray) -> np.ndarray:
    """Of which images more may be changed than where they lie: those that `finish` is for; bool [B]."""
    if augmentation.color_jitter or augmentation.policy != "none":
        return np.ones(len(draws_BD), bool)
    return policies.may_be_erased(augmentation.erase_probability, draws_BD[:, _SPANS[2] : _SPANS[3]])


def regions_of(
    boxes_B4: np.ndarray, heights_B: np.ndarray, widths_B: np.ndarray, side_px: int, can_shrink_B: np.ndarray
) -> np.ndarray:
    """What must be decoded of images of these sizes, int64 [B, 5] of what makes a `Region`: at 1/2, 1/4 or 1/8 where
    the box is so much larger than the output and the image can be shrunk."""
    least_B = boxes_B4[:, 2:].min(axis=1)
    shrinks_B = np.ones(len(boxes_B4), np.int64)
    for shrink in SHRINKS[1:]:
        shrinks_B[can_shrink_B & (shrink * side_px <= least_B)] = shrink
    regions_B5 = np.concatenate([boxes_B4, shrinks_B[:, None]], axis=1)
    is_shrunk_B = shrinks_B > 1
    if is_shrunk_B.any():
        sizes = np.stack([heights_B, widths_B], axis=1)[is_shrunk_B]
        new_sizes = np.stack(shrunk_size(*sizes.T, shrinks_B[is_shrunk_B]), axis=1)
        corners = boxes_B4[is_shrunk_B].reshape(-1, 2, 2).cumsum(axis=1)  # top and left, bottom and right
        first, last = np.rint(corners * new_sizes[:, None] / sizes[:, None]).astype(np.int64).transpose(1, 0, 2)
        regions_B5[is_shrunk_B, :4] = np.concatenate([first, np.maximum(1, last - first)], axis=1)
    return regions_B5


def apply(crop_HWC: np.ndarray, view: View, side_px: int, out: np.ndarray) -> None:
    """Writes what the view makes of its crop, decoded, into `out`, [side_px, side_px, C] of its type."""
    resize(crop_HWC, side_px, side_px, out)
    if view.flip_horizontal:
        _flip(out, 1)
    if view.flip_vertical:
        _flip(out, 0)
    if view.shift != (0, 0):
        np.copyto(out, _shifted(out, *view.shift))
    finish(out, view)


def finish(out: np.ndarray, view: View) -> None:
    """Does to an image that was cropped, resized, flipped and moved what else the view says, in place."""
    if view.color is not None:
        cv2.transform(out, _color_matrix(out, *view.color), dst=out)
    if view.chains:
        np.copyto(out, policies.apply(out, view.chains))
    if view.erased is not None:
        policies.erase(out, view.erased)


def check(augmentation: Augmentation, num_channels: int, pixel_dtype: str) -> None:
    """Raises ParamsError for changes of colour where the channels are not those of RGB pictures."""
    if (num_channels, pixel_dtype) == (3, "uint8"):
        return
    wants = {"color_jitter=0.0": augmentation.color_jitter == 0.0, "policy=none": augmentation.policy == "none"}
    unmet = [f"augment.{key}" for key, is_met in wants.items() if not is_met]
    if unmet:
        raise ParamsError(
            f"augment.color_jitter={augmentation.color_jitter} and augment.policy={augmentation.policy} are for "
            f"colours, and the images have {num_channels} channels of {pixel_dtype}, not red, green and blue; set "
            f"{' and '.join(unmet)}. Crops, flips and erasing work on any channels."
        )


def _flip(image_HWC: np.ndarray, axis: int) -> None:
    """In place."""
    if image_HWC.shape[2] == 3:
        cv2.flip(image_HWC, axis, dst=image_HWC)
    else:  # OpenCV 5 takes no more than 128 channels
        image_HWC[:] = np.flip(image_HWC, axis)


def _crop_boxes(
    augmentation: Augmentation,
    heights_B: np.ndarray,
    widths_B: np.ndarray,
    tries_BT2: np.ndarray,
    places_B2: np.ndarray,
) -> np.ndarray:
    """int64 [B, 4]: top, left, height, width of crops with area uniform in crop_scale and ratio log-uniform in
    crop_ratio.

    Source: Szegedy et al. 2015 (inception crop), as in torchvision's RandomResizedCrop, its fallback included.
    """
    low, high = augmentation.crop_scale
    ratio_low, ratio_high = np.log(augmentation.crop_ratio)
    areas_BT = (heights_B * widths_B)[:, None] * (low + (high - low) * tries_BT2[:, :, 0])
    ratios_BT = np.exp(ratio_low + (ratio_high - ratio_low) * tries_BT2[:, :, 1])
    tried_BT2 = np.rint(np.sqrt(np.stack([areas_BT / ratios_BT, areas_BT * ratios_BT], axis=2))).astype(np.int64)
    sizes_B2 = np.stack([heights_B, widths_B], axis=1).astype(np.int64)
    inside_BT = ((tried_BT2 >= 1) & (tried_BT2 <= sizes_B2[:, None])).all(axis=2)
    crops_B2 = tried_BT2[np.arange(len(tried_BT2)), inside_BT.argmax(axis=1)]
    offsets_B2 = (places_B2 * (sizes_B2 - crops_B2 + 1)).astype(np.int64)
    widest, tallest = widths_B / augmentation.crop_ratio[0], heights_B * augmentation.crop_ratio[1]
    limits_B2 = np.maximum(1, np.rint(np.stack([widest, tallest], axis=1))).astype(np.int64)
    centred_B2 = np.minimum(sizes_B2, limits_B2)
    boxes_B4 = np.concatenate([offsets_B2, crops_B2], axis=1)
    centred_B4 = np.concatenate([(sizes_B2 - centred_B2) // 2, centred_B2], axis=1)
    return np.where(inside_BT.any(axis=1)[:, None], boxes_B4, centred_B4)


def _shifted(image_HWC: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image moved by whole pixels; what comes in at the border is what lies inside it, mirrored.

    Source: He et al. 2016, who pad CIFAR-10's images by four black pixels before a random crop.
    """
    height, width = image_HWC.shape[:2]
    borders = (max(down, 0), max(-down, 0), max(right, 0), max(-right, 0))
    wide_HWC = cv2.copyMakeBorder(image_HWC, *borders, cv2.BORDER_REFLECT_101)
    return wide_HWC[borders[1] :, borders[3] :][:height, :width].reshape(image_HWC.shape)


def _color_matrix(image_HWC: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Brightness, contrast about the mean grey, saturation about each pixel's grey: one affine map, float64 [3, 4]."""
    mean_grey = float(_LUMA @ cv2.mean(image_HWC)[:3])
    blend = saturation * np.eye(3) + (1.0 - saturation) * np.tile(_LUMA, (3, 1))
    shift = np.full((3, 1), (1.0 - contrast) * brightness * mean_grey)
    return np.concatenate([contrast * brightness * blend, shift], axis=1)

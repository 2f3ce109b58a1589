"""Mixup and cutmix on the device: each image with its neighbour in the step, places 0 and 1, 2 and 3, and so on.

Neighbours are strangers, since the step's samples were shuffled, and they are on one rank whenever a rank's batch is
even: so the same images meet for any number of ranks. Each pair has draws of its own, where most implementations draw
once for a batch. P pairs, B = 2 P images; deciding (`plan`) is apart from doing (`mix_images`).
Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (cutmix), torchvision's rounding of the box.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv

NUM_DRAWS = 4
"""Per pair: which of the two, how much, and the middle of the box, down and across."""


@dataclass(frozen=True)
class Mixing:
    """Both with a positive alpha: each pair has one or the other, as often."""

    mixup_alpha: float
    cutmix_alpha: float
    """Of the Beta(alpha, alpha) that an image's share is drawn from; 0 for none."""


@dataclass(frozen=True)
class Mix:
    """What happens to each pair: either image keeps its share and takes the rest from the other."""

    shares_P: np.ndarray
    """float32; for cutmix, what the box really leaves."""
    boxes_P4: np.ndarray
    """Top, left, bottom and right in pixels, int64; all 0 for mixup."""
    is_cut_P: np.ndarray


def plan(mixing: Mixing, draws_PD: np.ndarray, height: int, width: int) -> Mix:
    """`draws_PD` are numbers in [0, 1), NUM_DRAWS a pair."""
    chance_of_cut = 0.5 if mixing.mixup_alpha and mixing.cutmix_alpha else float(mixing.cutmix_alpha > 0)
    is_cut_P = draws_PD[:, 0] < chance_of_cut
    alpha_P = np.where(is_cut_P, mixing.cutmix_alpha, mixing.mixup_alpha)
    shares_P = betaincinv(alpha_P, alpha_P, draws_PD[:, 1])
    size_2 = np.array([height, width])
    middle_P2 = (draws_PD[:, 2:4] * size_2).astype(np.int64)
    half_P2 = (0.5 * np.sqrt(1.0 - shares_P)[:, None] * size_2).astype(np.int64)
    first_P2, last_P2 = np.maximum(middle_P2 - half_P2, 0), np.minimum(middle_P2 + half_P2, size_2)
    boxes_P4 = np.concatenate([first_P2, last_P2], axis=1) * is_cut_P[:, None]
    left_over_P = 1.0 - (boxes_P4[:, 2] - boxes_P4[:, 0]) * (boxes_P4[:, 3] - boxes_P4[:, 1]) / (height * width)
    return Mix(np.where(is_cut_P, left_over_P, shares_P).astype(np.float32), boxes_P4, is_cut_P)


def mix_images(images_BCHW: torch.Tensor, mix: Mix) -> torch.Tensor:
    """Normalised images as `mix` says, in new memory of the same layout."""
    pairs_P2CHW = images_BCHW.unflatten(0, (-1, 2))
    height, width = images_BCHW.shape[2:]
    device = images_BCHW.device
    shares_P1111 = on_device(mix.shares_P, device)[:, None, None, None, None]
    if mix.is_cut_P.any():
        top_P, left_P, bottom_P, right_P = on_device(mix.boxes_P4.T.copy(), device)[:, :, None]
        rows_H, columns_W = torch.arange(height, device=device), torch.arange(width, device=device)
        in_rows_PH = (rows_H >= top_P) & (rows_H < bottom_P)
        in_columns_PW = (columns_W >= left_P) & (columns_W < right_P)
        in_box_P11HW = (in_rows_PH[:, :, None] & in_columns_PW[:, None, :])[:, None, None]
        is_cut_P1111 = on_device(mix.is_cut_P, device)[:, None, None, None, None]
        shares_P1111 = torch.where(is_cut_P1111, (~in_box_P11HW).float(), shares_P1111)
    mixed_P2CHW = torch.lerp(pairs_P2CHW.flip(1), pairs_P2CHW, shares_P1111.to(images_BCHW.dtype))
    return mixed_P2CHW.flatten(0, 1)


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copied without waiting for what the device has to do before."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def of_neighbours(labels_B: torch.Tensor) -> torch.Tensor:
    """Each place's partner's."""
    return labels_B.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)

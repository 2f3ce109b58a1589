"""RandAugment, TrivialAugment, AugMix and random erasing: what they do to a sample, decided by its draws, and doing it.

Operations, their ranges and their bins are torchvision's, so that published settings mean the same here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from pipeline.loading.operations import change

PolicyName = Literal["none", "randaugment", "trivialaugment", "augmix"]

NUM_BINS = 31
"""Magnitudes of RandAugment and TrivialAugment run from 0 to this less one."""

MAX_OPS = 8
"""Of RandAugment, one after the other."""

_GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_STRENGTHS = ("brightness", "color", "contrast", "sharpness")
_OPERATIONS = ("identity", *_GEOMETRY, *_STRENGTHS, "posterize", "solarize", "autocontrast", "equalize")

_AUGMIX_CHAINS, _AUGMIX_DEPTH, _AUGMIX_BINS, _AUGMIX_SEVERITY = 3, 3, 10, 3
"""Hendrycks et al. 2020, section 3 and its code; severity is the number of lowest bins that are drawn from."""

NUM_DRAWS = 1 + 2 * _AUGMIX_CHAINS + 3 * _AUGMIX_CHAINS * _AUGMIX_DEPTH
"""Per sample, of which AugMix needs all."""

_ERASED_AREA, _ERASED_RATIO, _NUM_ERASE_TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10
"""Zhong et al. 2020, table of settings; torchvision makes as many tries."""

NUM_ERASE_DRAWS = 3 + 2 * _NUM_ERASE_TRIES


@dataclass(frozen=True)
class Chain:
    """Operations with their amounts, one after the other, and the share of what they make in the result."""

    share: float
    operations: tuple[tuple[str, float], ...]


def plan(name: PolicyName, num_ops: int, magnitude: int, side_px: int, draws: np.ndarray) -> tuple[Chain, ...]:
    """What the policy does to one image of this side with these draws, float64 [NUM_DRAWS]; nothing for `none`."""
    if name == "randaugment":
        level = magnitude / (NUM_BINS - 1)
        pairs = draws[: 2 * num_ops].reshape(num_ops, 2)
        return (Chain(1.0, tuple(_drawn(_OPERATIONS, _amount, level, side_px, *pair) for pair in pairs)),)
    if name == "trivialaugment":
        level = int(draws[0] * NUM_BINS) / (NUM_BINS - 1)
        return (Chain(1.0, (_drawn(_OPERATIONS, _wide_amount, level, side_px, *draws[1:3]),)),)
    if name == "augmix":
        return _augmix(side_px, draws)
    return ()


def apply(image_HWC: np.ndarray, chains: Sequence[Chain]) -> np.ndarray:
    """The chains' results in their shares; what is left of the whole is the image as it was."""
    results = []
    for chain in chains:
        changed_HWC = image_HWC
        for name, amount in chain.operations:
            changed_HWC = change(changed_HWC, name, amount)
        results.append(changed_HWC)
    if len(chains) == 1 and chains[0].share == 1.0:
        return results[0]
    mixed_HWC = (1.0 - sum(chain.share for chain in chains)) * image_HWC.astype(np.float32)
    for chain, changed_HWC in zip(chains, results, strict=True):
        mixed_HWC += np.float32(chain.share) * changed_HWC
    return np.rint(np.clip(mixed_HWC, 0, 255)).astype(np.uint8)


def may_be_erased(probability: float, draws_BE: np.ndarray) -> np.ndarray:
    """Which images `plan_erasing` looks for a box in, by draws, float64 [B, NUM_ERASE_DRAWS]; bool [B]."""
    return draws_BE[:, 0] < probability


def plan_erasing(probability: float, side_px: int, draws: np.ndarray) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of what is erased, by draws, float64 [NUM_ERASE_DRAWS]; None for nothing."""
    if not may_be_erased(probability, draws[None]).all():
        return None
    low, high = np.log(_ERASED_RATIO)
    for u_area, u_ratio in draws[3:].reshape(_NUM_ERASE_TRIES, 2):
        area = side_px * side_px * (_ERASED_AREA[0] + (_ERASED_AREA[1] - _ERASED_AREA[0]) * u_area)
        ratio = np.exp(low + (high - low) * u_ratio)
        height, width = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 1 <= height < side_px and 1 <= width < side_px:
            return int(draws[1] * (side_px - height + 1)), int(draws[2] * (side_px - width + 1)), height, width
    return None


def erase(image_HWC: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Paints the box in the image's own mean colour, in place."""
    top, left, height, width = box
    num_pixels = image_HWC.shape[0] * image_HWC.shape[1]
    image_HWC[top : top + height, left : left + width] = np.rint(_sums(image_HWC) / num_pixels)


def _sums(image_HWC: np.ndarray) -> np.ndarray:
    """Of each channel, float64 and exact; OpenCV's take a thirtieth of NumPy's time, and are for up to four."""
    num_channels = image_HWC.shape[2]
    if num_channels > 4:
        return image_HWC.sum(axis=(0, 1), dtype=np.float64)
    return np.array(cv2.sumElems(image_HWC)[:num_channels])


def _augmix(side_px: int, draws: np.ndarray) -> tuple[Chain, ...]:
    """Three chains of one to three operations; shares and the part left of the image from Dirichlet and Beta of 1."""
    changed, rest = draws[0], draws[1:]
    weights, depths, links = np.split(rest, [_AUGMIX_CHAINS, 2 * _AUGMIX_CHAINS])
    shares = -np.log1p(-weights)  # exponentials over their sum are Dirichlet(1, 1, 1)
    shares = changed * shares / max(shares.sum(), 1e-12)
    chains = []
    for share, u_depth, chain in zip(shares, depths, links.reshape(_AUGMIX_CHAINS, _AUGMIX_DEPTH, 3), strict=True):
        operations = tuple(
            _drawn(_OPERATIONS[1:], _mixed_amount, int(u * _AUGMIX_SEVERITY) / (_AUGMIX_BINS - 1), side_px, *pair)
            for u, *pair in chain[: 1 + int(u_depth * _AUGMIX_DEPTH)]
        )
        chains.append(Chain(float(share), operations))
    return tuple(chains)


def _drawn(operations: Sequence[str], amount, level: float, side_px: int, u_name: float, u_sign: float):
    name = operations[int(u_name * len(operations))]
    value = amount(name, level, side_px)
    is_signed = name in _GEOMETRY or name in _STRENGTHS
    return name, -value if is_signed and u_sign < 0.5 else value


def _amount(name: str, level: float, side_px: int) -> float:
    """RandAugment's, at a level from 0 to 1. Source: torchvision.transforms.RandAugment."""
    most = {"translate_x": side_px * 150 / 331, "translate_y": side_px * 150 / 331, "rotate": 30.0}
    return _of_level(name, level, most | dict.fromkeys(_STRENGTHS, 0.9), 0.3, 8 - round(4 * level))


def _wide_amount(name: str, level: float, _side_px: int) -> float:
    """Source: torchvision.transforms.TrivialAugmentWide."""
    most = {"translate_x": 32.0, "translate_y": 32.0, "rotate": 135.0}
    return _of_level(name, level, most | dict.fromkeys(_STRENGTHS, 0.99), 0.99, 8 - round(6 * level))


def _mixed_amount(name: str, level: float, side_px: int) -> float:
    """Source: torchvision.transforms.AugMix."""
    most = {"translate_x": side_px / 3, "translate_y": side_px / 3, "rotate": 30.0}
    return _of_level(name, level, most | dict.fromkeys(_STRENGTHS, 0.9), 0.3, 4 - round(4 * level))


def _of_level(name: str, level: float, most: dict[str, float], shear: float, bits: int) -> float:
    if name == "posterize":
        return bits
    if name == "solarize":
        return 255.0 * (1.0 - level)
    return level * (shear if name.startswith("shear") else most.get(name, 0.0))

"""What kind of images a set holds: pictures, kept as JPEGs, or arrays of one number of channels and one type.

A set has one kind, that of most of its images: the others are rejects.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Reject
from pipeline.imaging.channels import RGB, Channels
from pipeline.sharding.encode import ChannelSums, no_pixels
from pipeline.sharding.inspect import Looks, look_channels, read_sums
from pipeline.sharding.records import FactsFile
from pipeline.sharding.split import NO_SPLIT, TRAIN


class Pixels(NamedTuple):
    channels: Channels
    mean: list[float]
    std: list[float]
    """Per channel, pixels scaled to 0..1."""


def image_extension(channels: Channels) -> str:
    """Of the images' members in the tars."""
    return "jpg" if channels == RGB else "npy"


def find_channels(looks: Looks) -> Channels:
    """Those of most images; where two kinds are equally many, of the one with fewer channels, then fewer bits."""
    counts: dict[tuple[int, int], int] = {}
    for rows in looks.batches():
        kinds, numbers = np.unique(rows[["num_channels", "sample_bytes"]], return_counts=True)
        for kind, number in zip(kinds.tolist(), numbers.tolist(), strict=True):
            counts[kind] = counts.get(kind, 0) + number
    counts.pop((0, 0), None)  # rejects
    if not counts:
        return RGB
    num_channels, sample_bytes = min(counts, key=lambda kind: (-counts[kind], kind))
    return Channels(num_channels, f"uint{8 * sample_bytes}")


def reject_others(looks: Looks, facts: FactsFile, channels: Channels) -> dict[int, Reject]:
    """The images of another kind, by row."""
    sample_bytes, rejects, start = np.dtype(channels.dtype).itemsize, {}, 0
    for rows in looks.batches():
        is_other = (rows["num_channels"] != channels.number) | (rows["sample_bytes"] != sample_bytes)
        others = np.flatnonzero(is_other & (rows["num_channels"] > 0))
        for position, each in zip(others.tolist(), facts.rows(start + others), strict=True):
            rejects[start + position] = Reject(
                path=each.path,
                reason="other_channels",
                detail=f"The image has {look_channels(rows[position])}, most of the set have {channels}; a set has one "
                "kind (grey counts as RGB): convert it, or make a set of its own.",
            )
        start += len(rows)
    return rejects


def measure_pixels(looks: Looks, spool: Path, splits: np.ndarray, channels: Channels) -> Pixels:
    """Over the training images, all of these channels, that were measured."""
    sums = _sum(looks, spool, splits == TRAIN, channels)
    if not sums.num_pixels:  # a tiny training split of a large set: what was measured lies in the others
        sums = _sum(looks, spool, splits != NO_SPLIT, channels)
    mean, std = sums.mean_and_std(np.iinfo(channels.dtype).max)
    # A channel that is the same everywhere would be divided by nothing.
    return Pixels(channels, mean, [each or 1.0 for each in std])


def _sum(looks: Looks, spool: Path, is_wanted: np.ndarray, channels: Channels) -> ChannelSums:
    sums, start = no_pixels(channels.number), 0
    for rows in looks.batches():
        wanted = np.flatnonzero(is_wanted[start : start + len(rows)])
        if channels == RGB:
            totals = (tuple(rows[name][wanted].sum(axis=0).tolist()) for name in ("values", "squares"))
            sums += ChannelSums(int(rows["num_pixels"][wanted].sum()), *totals)
        else:
            for position in wanted.tolist():
                sums += read_sums(spool, start + position, rows[position])
        start += len(rows)
    return sums

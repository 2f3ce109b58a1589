"""ConvoyNet: convolution, normalisation, activation, pooling, dropout, a fully connected head; for little images.

It is said in the terms of timm's `resnet18`, so that its export opens in timm without this project. Three 3 x 3
convolutions at half the input's side, a pooling, then a stage of residual blocks for each width, each but the first at
half the side of the one before.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ModelError

ARCHITECTURE = "resnet18"
"""What timm calls it: ResNet-18's blocks, with other arguments."""

MIN_STAGES, MAX_STAGES = 2, 4
"""Timm divides by the number of blocks less one."""

POOLINGS = ("max", "average", "strided")
ACTIVATIONS = ("relu", "gelu", "silu")


def arguments(
    *,
    widths: Sequence[int] = (64, 128, 256),
    depth: int = 1,
    pooling: str = "max",
    activation: str = "relu",
    drop_path_rate: float = 0.0,
) -> dict[str, Any]:
    """What timm's `resnet18` is to be told: plain values, as config.json holds them.

    `widths` are the channels of the stages (two to four), `depth` their blocks. `pooling` halves the side: `average`
    and `strided` do so everywhere, `max` after the first convolutions only, because timm's blocks know no maximum; its
    stages are strided. Training skips the last block as often as `drop_path_rate` says, earlier ones less. Raises
    ModelError.
    """
    _check(widths, depth, pooling, activation, drop_path_rate)
    num_missing = MAX_STAGES - len(widths)
    made = {
        "layers": [depth] * len(widths) + [0] * num_missing,
        "channels": [*widths, *[widths[-1]] * num_missing],
        "stem_type": "deep",
        "stem_width": max(4, widths[0] // 4),
        "avg_down": True,
        "act_layer": activation,
        "replace_stem_pool": pooling != "max",
        "drop_path_rate": float(drop_path_rate),
    }
    return made | ({"aa_layer": "avg"} if pooling == "average" else {})


OPTIONS = tuple(inspect.signature(arguments).parameters)


def _check(widths: Sequence[int], depth: int, pooling: str, activation: str, drop_path_rate: float) -> None:
    if not (
        isinstance(widths, list | tuple)
        and MIN_STAGES <= len(widths) <= MAX_STAGES
        and all(isinstance(width, int) and width >= 1 for width in widths)
    ):
        raise ModelError(
            f"model.options.widths={widths!r} must list the channels of {MIN_STAGES} to {MAX_STAGES} stages, "
            "as [64, 128, 256]."
        )
    if not isinstance(depth, int) or depth < 1:
        raise ModelError(f"model.options.depth={depth!r} must be a number of blocks, 1 or more.")
    if not isinstance(drop_path_rate, int | float) or not 0.0 <= drop_path_rate < 1.0:
        raise ModelError(f"model.options.drop_path_rate={drop_path_rate!r} must be a number from 0 to under 1.")
    for name, value, valid in (("pooling", pooling, POOLINGS), ("activation", activation, ACTIVATIONS)):
        if value not in valid:
            raise ModelError(f"model.options.{name}={value!r} is not known; use {', '.join(valid)}.")

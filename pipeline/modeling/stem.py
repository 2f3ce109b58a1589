"""The first convolutions of weights that were trained on RGB images, for images with other channels.

Each new channel takes the kernel of red, green or blue in turn, scaled so that the sum over all channels stays what it
was: the layers behind see values of the size they know. One channel takes the sum of the three.
Source: timm's adapt_input_conv, which does the same to timm's own pretrained weights.
"""

from pathlib import Path

import torch
from timm.models import adapt_input_conv

from pipeline.errors import ModelError

RGB_CHANNELS = 3


def adapt_stems(state: dict[str, torch.Tensor], model: torch.nn.Module, file: Path) -> None:
    """Fits the stems in `state`, which came from `file`, to the model's number of channels, in place.

    Raises ModelError for stems that were trained on neither that number nor on RGB.
    """
    wanted = model.state_dict()
    for name in stem_names(model):
        found, own = state.get(f"{name}.weight"), wanted.get(f"{name}.weight")
        if found is None or own is None or found.ndim != own.ndim or found.shape[1] == own.shape[1]:
            continue
        if found.shape[1] != RGB_CHANNELS:
            raise ModelError(
                f"{file} was trained on images with {found.shape[1]} channels, the data set's have {own.shape[1]}; "
                "only weights for RGB images are adapted to others: use those, or model.weights: none."
            )
        state[f"{name}.weight"] = adapt_input_conv(own.shape[1], found)


def stem_names(model: torch.nn.Module) -> tuple[str, ...]:
    """The modules that see the image's channels."""
    names = model.pretrained_cfg.get("first_conv") or ()
    return (names,) if isinstance(names, str) else tuple(names)

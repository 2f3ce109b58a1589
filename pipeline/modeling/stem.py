"""The first convolutions of weights that were trained on RGB images, for images with other channels.

Each new channel takes the kernel of red, green or blue in turn, scaled so that the sum over all channels stays what it
was: the layers behind see values of the size they know. One channel takes the sum of the three.
Source: timm's adapt_input_conv, which does the same to timm's own pretrained weights.
"""

from pathlib import Path

import torch

from pipeline.errors import ModelError

RGB_CHANNELS = 3


def adapt_stems(state: dict[str, torch.Tensor], model: torch.nn.Module, file: Path) -> None:
    """Fits the stems in `state`, which came from `file`, to the model's number of channels, in place.

    Raises ModelError for stems that were trained on neither that number nor on RGB.
    """
    from timm.models import adapt_input_conv  # as long to import as torch, and who only loads batches needs none of it

    wanted = model.state_dict()
    for name in stem_weights(model):
        found, own = state.get(name), wanted[name]
        if found is None or found.ndim != own.ndim or found.shape[1] == own.shape[1]:
            continue
        if found.shape[1] != RGB_CHANNELS:
            raise ModelError(
                f"The first layer of {file} takes {found.shape[1]} channels, that of the model {own.shape[1]}; only "
                "layers for the 3 of RGB images are adapted to others: use such weights, or model.weights: none."
            )
        state[name] = adapt_input_conv(own.shape[1], found)


def stem_weights(model: torch.nn.Module) -> list[str]:
    """Names of the tensors that meet the image's channels: of a stem of several convolutions, its first one's."""
    modules = model.pretrained_cfg.get("first_conv") or ()
    kernels = [name for name, tensor in model.state_dict().items() if tensor.ndim == 4]
    of_modules = (
        next((kernel for kernel in kernels if kernel.startswith(f"{module}.")), None)
        for module in ([modules] if isinstance(modules, str) else modules)
    )
    return [kernel for kernel in of_modules if kernel]

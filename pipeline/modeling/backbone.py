"""A classifier by name: convoynet, the classics of `pipeline.networks`, and all that timm has."""

import difflib
import inspect
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch

import pipeline.networks  # noqa: F401 - LeNet-5 and AlexNet, for timm's registry
from pipeline.artifacts import file_sha256
from pipeline.errors import ModelError
from pipeline.modeling import convoynet
from pipeline.modeling.stem import RGB_CHANNELS
from pipeline.networks.mirrored import Mirrored

CONVOYNET = "convoynet"

RESERVED = frozenset(inspect.signature(timm.create_model).parameters) | {"num_classes", "in_chans", "drop_rate"}
"""What `model.options` must not say: timm would load a checkpoint, be it a pickle, or be told something twice."""


def build(
    backbone: str,
    *,
    num_classes: int,
    input_px: int,
    num_channels: int = RGB_CHANNELS,
    drop_rate: float = 0.0,
    options: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """The classifier with fresh weights, on the default device; images_BCHW float in, logits_BK out.

    `options` are those of convoynet or arguments of the timm model. Raises ModelError, as `check` does.
    """
    check(backbone, input_px, options, num_channels)
    name, arguments = _in_timms_terms(backbone, input_px, options or {})
    return timm.create_model(name, num_classes=num_classes, in_chans=num_channels, drop_rate=drop_rate, **arguments)


def answering(network: torch.nn.Module, mirror: bool) -> torch.nn.Module:
    """What is asked for a network's answers: itself, or with `mirror` what looks at mirror images, too."""
    return Mirrored(network) if mirror else network


def check(
    backbone: str, input_px: int, options: dict[str, Any] | None = None, num_channels: int = RGB_CHANNELS
) -> None:
    """Raises ModelError for a name that is not known, options that are none, and an input that it cannot take.

    The model is only traced, on the meta device: no memory, no arithmetic.
    """
    options = options or {}
    name, arguments = _in_timms_terms(backbone, input_px, options)
    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(name, num_classes=1, in_chans=num_channels, drop_rate=0.0, **arguments).eval()
            model(torch.empty(1, num_channels, input_px, input_px))
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError) as exc:
        given = f", model.options={options}" if options else ""
        channels = f" with {num_channels} channels" if num_channels != RGB_CHANNELS else ""
        raise ModelError(
            f"model.backbone={backbone} cannot take images of model.input_px={input_px}{channels}{given}: {exc}. "
            "Use a multiple of 32, or the size that the backbone was made for; options are the arguments of its "
            "constructor."
        ) from exc


def check_sides(
    backbone: str,
    sides_px: Iterable[int],
    *,
    input_px: int,
    options: dict[str, Any] | None = None,
    num_channels: int = RGB_CHANNELS,
) -> None:
    """Raises ModelError when the network that is built for `input_px` cannot take images of another of these sides.

    Traced as in `check`, so that any side is allowed that the network itself allows, multiple of 32 or not.
    """
    name, arguments = _in_timms_terms(backbone, input_px, options or {})
    for side_px in sides_px:
        try:
            with torch.device("meta"), torch.no_grad():
                model = timm.create_model(name, num_classes=1, in_chans=num_channels, **arguments).eval()
                model(torch.empty(1, num_channels, side_px, side_px))
        except (RuntimeError, ValueError, AssertionError) as exc:
            raise ModelError(
                f"training.progressive_px has {side_px}, and model.backbone={backbone}, built for model.input_px="
                f"{input_px}, cannot take images of that side: {exc}. Set training.progressive_px to null, or use a "
                "network that takes any side: convoynet, a convolutional one, or a transformer of timm's with "
                "model.options: {dynamic_img_size: true}."
            ) from exc


def _in_timms_terms(backbone: str, input_px: int, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Timm's name of the backbone, and what its constructor is to be told. Raises ModelError for unknown names."""
    if reserved := sorted(options.keys() & RESERVED):
        raise ModelError(
            f"model.options.{reserved[0]} is no argument of a backbone's constructor; model.weights says where weights "
            "come from, model.drop_rate has a key of its own, and the data says the rest."
        )
    if backbone == CONVOYNET:
        unknown = sorted(options.keys() - set(convoynet.OPTIONS))
        if unknown:
            raise ModelError(
                f"model.options.{unknown[0]} is not an option of convoynet; it has {', '.join(convoynet.OPTIONS)}."
            )
        return convoynet.ARCHITECTURE, convoynet.arguments(**options)
    if not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, [CONVOYNET, *timm.list_models()], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them, beside convoynet."
        raise ModelError(f"model.backbone={backbone} is not a model of timm {timm.__version__}; {hint}")
    # Transformers of a fixed size are told theirs; convolutions take any.
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    size = {"img_size": input_px} if config.fixed_input_size else {}
    return backbone, size | options


def pretrained_name(backbone: str, input_px: int, options: dict[str, Any]) -> str:
    """What decides which weights `fetch_pretrained` leaves, in one line: the size of the input only where it does."""
    name, arguments = _in_timms_terms(backbone, input_px, options)
    return f"{name} {json.dumps(arguments, sort_keys=True, default=str)}"


def fetch_pretrained(backbone: str, input_px: int, options: dict[str, Any], folder: Path) -> Path:
    """A .safetensors file in `folder`, named by its sha256, of the weights that timm has for this backbone.

    Fetched by timm, or taken from its cache where there is no network. Raises ModelError.
    """
    name, arguments = _in_timms_terms(backbone, input_px, options)
    if backbone == CONVOYNET or not timm.get_pretrained_cfg(name).has_weights:
        raise ModelError(
            f"model.weights=pretrained, but there are no pretrained weights of {backbone}; use model.weights: none, or "
            "the .safetensors file or the folder of a model of yours."
        )
    try:
        model = timm.create_model(name, pretrained=True, **arguments)
    except OSError as exc:
        raise ModelError(
            f"The pretrained weights of {backbone} could not be fetched ({exc}); put their .safetensors file on this "
            "machine and give its path as model.weights, or use model.weights: none."
        ) from exc
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{os.getpid()}.partial"
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    return partial.replace(folder / f"{file_sha256(partial)}.safetensors")

"""A classifier by name: convoynet, the classics of `pipeline.networks`, and all that timm has.

Weights to start from: none, timm's pretrained ones, or a local file. Only safetensors are read, never a pickle.
"""

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch

import pipeline.networks  # noqa: F401 - LeNet-5 and AlexNet, for timm's registry
from pipeline.errors import ModelError
from pipeline.modeling import convoynet
from pipeline.modeling.stem import RGB_CHANNELS, adapt_stems

CONVOYNET = "convoynet"


def build(
    backbone: str,
    *,
    num_classes: int,
    input_px: int,
    num_channels: int = RGB_CHANNELS,
    weights: str = "none",
    drop_rate: float = 0.0,
    options: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """The classifier on the CPU; images_BCHW float in, logits_BK out. A head for other classes starts anew.

    `weights` is `none`, `pretrained`, a .safetensors file or an exported model's folder; `options` are those of
    convoynet or arguments of the timm model. Weights for RGB images serve other numbers of channels, too: see
    `stem`. Raises ModelError.
    """
    check(backbone, weights, input_px, options, num_channels)
    name, arguments = _in_timms_terms(backbone, input_px, options or {})
    try:
        model = timm.create_model(
            name,
            pretrained=weights == "pretrained",
            num_classes=num_classes,
            in_chans=num_channels,
            drop_rate=drop_rate,
            **arguments,
        )
    except OSError as exc:
        raise ModelError(
            f"The pretrained weights of {backbone} could not be fetched ({exc}); put their .safetensors file on this "
            "machine and give its path as model.weights, or use model.weights: none."
        ) from exc
    if weights not in ("none", "pretrained"):
        _load(model, backbone, weights_file(weights))
    return model


def check(
    backbone: str,
    weights: str,
    input_px: int,
    options: dict[str, Any] | None = None,
    num_channels: int = RGB_CHANNELS,
) -> None:
    """Raises ModelError for a name that is not known, options or an input it cannot take, and weights not there.

    The model is only traced, on the meta device: no memory, no arithmetic.
    """
    options = options or {}
    name, arguments = _in_timms_terms(backbone, input_px, options)
    if weights == "pretrained" and (backbone == CONVOYNET or not timm.get_pretrained_cfg(name).has_weights):
        raise ModelError(
            f"model.weights=pretrained, but there are no pretrained weights of {backbone}; use model.weights: none, or "
            "the .safetensors file or the folder of a model of yours."
        )
    if weights not in ("none", "pretrained"):
        weights_file(weights)
    try:
        with torch.device("meta"), torch.no_grad():
            model = timm.create_model(name, num_classes=1, in_chans=num_channels, drop_rate=0.0, **arguments).eval()
            model(torch.empty(1, num_channels, input_px, input_px))
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError) as exc:
        given = f", model.options={options}" if options else ""
        channels = f" with {num_channels} channels" if num_channels != RGB_CHANNELS else ""
        raise ModelError(
            f"model.backbone={backbone} cannot take images of model.input_px={input_px}{channels}{given}: {exc}. "
            "Use a multiple of 32, or the size that the backbone was made for; options are the arguments of "
            "timm's constructor."
        ) from exc


def _in_timms_terms(backbone: str, input_px: int, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Timm's name of the backbone, and what its constructor is to be told. Raises ModelError for unknown names."""
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


def weights_file(weights: str) -> Path:
    """The .safetensors file that `model.weights` names. Raises ModelError when there is none."""
    path = Path(weights)
    file = path / "model.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise ModelError(
            f"model.weights={weights} is neither `none`, `pretrained`, a .safetensors file nor an exported model's "
            "folder; only safetensors are read, because a pickle can run code."
        )
    return file


def weights_digest(backbone: str, weights: str) -> str:
    """What the starting weights are, as text for a fingerprint: a file counts by its bytes."""
    if weights == "none":
        return "none"
    if weights == "pretrained":
        config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
        return f"timm {config.tag or ''} {config.hf_hub_id or config.url or ''}"
    with weights_file(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(model: torch.nn.Module, backbone: str, file: Path) -> None:
    """Loads a file into a built model; head tensors of another shape keep their fresh values."""
    config = file.parent / "config.json"
    if config.is_file():
        source = json.loads(config.read_text(encoding="utf-8")).get("architecture")
        if source and source != backbone.split(".")[0]:
            raise ModelError(f"{file.parent} holds a {source}; model.backbone={backbone} cannot take its weights.")
    try:
        state = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as exc:
        raise ModelError(f"{file} is no whole safetensors file ({exc}); fetch or export it again.") from exc
    adapt_stems(state, model, file)
    wanted = model.state_dict()
    head = {name for name in wanted if name.split(".")[0] in _head_names(model)}
    kept = {name: value for name, value in state.items() if name in wanted and value.shape == wanted[name].shape}
    lacking = sorted(wanted.keys() - kept.keys() - head)
    if lacking:
        raise ModelError(
            f"{file} does not fit model.backbone={backbone}: {len(lacking)} tensors are missing or of another shape, "
            f"the first is {lacking[0]}; use the backbone that the weights were made for."
        )
    model.load_state_dict(kept, strict=False)


def _head_names(model: torch.nn.Module) -> set[str]:
    names = model.pretrained_cfg.get("classifier", ())
    return {name.split(".")[0] for name in ([names] if isinstance(names, str) else names)}

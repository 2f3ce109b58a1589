"""The model that leaves the train stage: `model.safetensors` and `config.json` in timm's own layout, no pickle.

`timm.create_model("local-dir:<folder>", pretrained=True)` reads the folder without this project. What is ours lies
under the config's key `convoy`, with the digest of the weights, so that `load` finds any damage.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import safetensors
import safetensors.torch
import timm
import torch
from timm.models._hub import save_config_for_hf  # `save_for_hf` cannot write channels_last weights (timm 1.0.31)

import pipeline.networks  # noqa: F401 - LeNet-5 and AlexNet, for timm's registry
from pipeline.artifacts import file_sha256
from pipeline.errors import ArtifactError, ModelError
from pipeline.networks.mirrored import Mirrored

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_MIRROR = "mirror"
"""Among the metadata of the weights' file."""
INTERPOLATION = "bilinear"
"""The nearest that timm has to `imaging.resizing`: antialiased when shrinking, linear when enlarging."""


class Facts(pydantic.BaseModel):
    """The key `convoy` of config.json."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    format: Literal["convoy-model"] = "convoy-model"
    format_version: Literal[1] = 1
    backbone: str
    """As params.yaml named it."""
    classes: list[str]
    """Class names; the position is the label."""
    input_px: int
    num_channels: int
    pixel_dtype: Literal["uint8", "uint16"] = "uint8"
    mean: list[float]
    """Per channel, of pixels scaled to 0..1 by the largest value of their type."""
    std: list[float]
    temperature: float
    """Logits are divided by it before the softmax."""
    multi_label: bool = False
    """Whether an image has any number of the classes: each has a sigmoid of its own then."""
    thresholds: list[float] = []
    """Of a multi-label model, the probability of each class from which on an image is said to have it."""
    mirror: bool = False
    """Whether an answer is the mean of two, of the image and of its mirror image; see `Mirrored`."""
    weights_sha256: str


@dataclass(frozen=True)
class Export:
    """An exported model, read back."""

    model: torch.nn.Module
    """In evaluation mode, on the CPU; normalised float images [B, C, input_px, input_px] to logits [B, K]."""
    backbone: str
    classes: list[str]
    input_px: int
    num_channels: int
    pixel_dtype: str
    mean: list[float]
    std: list[float]
    temperature: float
    multi_label: bool
    thresholds: list[float]
    mirror: bool
    sha256: str
    """Of model.safetensors."""


def write(
    folder: Path,
    model: torch.nn.Module,
    *,
    backbone: str,
    classes: Sequence[str],
    input_px: int,
    num_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    pixel_dtype: str = "uint8",
    temperature: float = 1.0,
    thresholds: Sequence[float] | None = None,
    mirror: bool = False,
) -> str:
    """The sha256 of the weights that now lie in `folder`, which is made. Same model, same bytes.

    `model` is as `timm.create_model` built it, on any device; wrappers (DDP, torch.compile) are taken off before.
    `thresholds`, one a class, make it a multi-label model.
    Raises ModelError when its head is not one output a class.
    """
    if model.num_classes != len(classes):
        raise ModelError(
            f"The model has {model.num_classes} outputs and the data {len(classes)} classes; "
            "train it again with `convoy train`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Clones, because safetensors refuses tensors that share memory or are channels_last.
    tensors = {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, value in model.state_dict().items()
    }
    # Said in the file itself, too: by its digest the registry knows one model from another that answers otherwise.
    metadata = {"format": "pt"} | ({_MIRROR: "true"} if mirror else {})
    safetensors.torch.save_file(tensors, folder / WEIGHTS, metadata=metadata)
    sha256 = file_sha256(folder / WEIGHTS)
    facts = Facts(
        backbone=backbone,
        classes=list(classes),
        input_px=input_px,
        num_channels=num_channels,
        pixel_dtype=pixel_dtype,
        mean=list(mean),
        std=list(std),
        temperature=temperature,
        multi_label=thresholds is not None,
        thresholds=list(thresholds or []),
        mirror=mirror,
        weights_sha256=sha256,
    )
    save_config_for_hf(
        model,
        folder / CONFIG,
        model_config={"label_names": list(classes), "convoy": facts.model_dump(mode="json")},
        data_config={
            "input_size": (num_channels, input_px, input_px),
            "interpolation": INTERPOLATION,
            "mean": tuple(mean),
            "std": tuple(std),
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
    )
    # A model that was itself loaded from an export would hand on its old names, and its keys in another order.
    config = json.loads((folder / CONFIG).read_bytes())
    config["pretrained_cfg"].pop("label_names", None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sha256


def load(folder: Path) -> Export:
    """The model in `folder`, verified, without asking any hub.

    Raises ArtifactError for files that are missing, damaged or not ours.
    """
    facts = verify(folder)
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=False)
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS, device="cpu"), strict=True)
    except (safetensors.SafetensorError, RuntimeError, TypeError, ValueError, KeyError, AssertionError) as exc:
        raise ArtifactError(
            f"{folder} holds weights and a {CONFIG} that do not fit each other ({exc}); run `convoy train` again."
        ) from exc
    return Export(
        model=Mirrored(model).eval() if facts.mirror else model.eval(),
        backbone=facts.backbone,
        classes=facts.classes,
        input_px=facts.input_px,
        num_channels=facts.num_channels,
        pixel_dtype=facts.pixel_dtype,
        mean=facts.mean,
        std=facts.std,
        temperature=facts.temperature,
        multi_label=facts.multi_label,
        thresholds=facts.thresholds,
        mirror=facts.mirror,
        sha256=facts.weights_sha256,
    )


def verify(folder: Path) -> Facts:
    """What config.json says of the model, whose weights are the very ones. Raises ArtifactError."""
    facts = read_facts(folder)
    try:
        sha256 = file_sha256(folder / WEIGHTS)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{folder / WEIGHTS} does not exist; run `convoy train` first (or `dvc repro`).") from exc
    if sha256 != facts.weights_sha256:
        raise ArtifactError(
            f"{folder / WEIGHTS} is damaged: its sha256 is {sha256}, {CONFIG} says {facts.weights_sha256}; "
            "run `dvc checkout`, or `convoy train` again."
        )
    if _says_mirror(folder) != facts.mirror:
        raise ArtifactError(
            f"{folder / CONFIG} says mirror: {json.dumps(facts.mirror)}, {WEIGHTS} was written for the other; set "
            "model.mirror in params.yaml instead, and run `convoy train`."
        )
    return facts


def _says_mirror(folder: Path) -> bool:
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
            return (file.metadata() or {}).get(_MIRROR) == "true"
    except safetensors.SafetensorError as exc:
        raise ArtifactError(f"{folder / WEIGHTS} holds no tensors ({exc}); run `convoy train` again.") from exc


def read_facts(folder: Path) -> Facts:
    """What config.json says of the model, without reading the weights. Raises ArtifactError."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        return Facts.model_validate(config["convoy"])
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} does not exist; run `convoy train` first (or `dvc repro`).") from exc
    except (ValueError, KeyError, TypeError) as exc:
        reason = exc.errors()[0]["msg"] if isinstance(exc, pydantic.ValidationError) else repr(exc)
        raise ArtifactError(
            f"{path} is not the config of a model that Convoy exported ({reason}); run `convoy train` again."
        ) from exc

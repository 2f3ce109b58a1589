"""The weights that a fresh network starts from: one local file, its digest, and the classes that its head knows.

Only safetensors are read, never a pickle.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from pipeline.artifacts import file_sha256
from pipeline.errors import ModelError
from pipeline.modeling.stem import adapt_stems

FILE, CONFIG = "model.safetensors", "config.json"
"""What an exported model's folder holds."""


@dataclass(frozen=True)
class Start:
    """A file of weights as it was when it was looked at."""

    file: Path
    sha256: str
    classes: tuple[str, ...] | None
    """Of its head, in order; None where nothing says them."""

    @property
    def digest(self) -> str:
        """What decides where training starts, as text for a fingerprint: not the place, the bytes and the classes."""
        return f"{self.sha256} {json.dumps(self.classes)}"


def look_at(weights: str, backbone: str) -> Start:
    """The .safetensors file, or the exported model's folder, that `model.weights` names.

    Raises ModelError for what is not there, of another backbone, or not what its own config says.
    """
    path = Path(weights).absolute()
    file = path / FILE if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        raise ModelError(
            f"model.weights={weights} is neither `none`, `pretrained`, an address (models:/..., runs:/...) nor "
            "an exported model's folder or .safetensors file; only safetensors are read, because a pickle can run code."
        )
    sha256 = file_sha256(file)
    config = _read_config(path / CONFIG) if path.is_dir() else {}
    ours = config.get("convoy", {})
    source = ours.get("backbone") or config.get("architecture") or backbone
    if source.split(".")[0] != backbone.split(".")[0]:
        raise ModelError(f"{weights} holds a {source}; model.backbone={backbone} cannot take its weights.")
    if ours.get("weights_sha256", sha256) != sha256:
        raise ModelError(
            f"{file} is damaged: its sha256 is {sha256}, {CONFIG} says {ours['weights_sha256']}; copy it again."
        )
    classes = ours.get("classes") or config.get("label_names")
    return Start(file, sha256, tuple(classes) if isinstance(classes, list) else None)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise ModelError(f"{path} is not JSON ({exc}); copy the model's folder again.") from exc
    return config if isinstance(config, dict) else {}


def check(model: torch.nn.Module, start: Start) -> None:
    """Raises ModelError for a file whose tensors do not fit; `model` may be on the meta device."""
    _fitting(model, start)


def load(model: torch.nn.Module, start: Start, classes: Sequence[str]) -> None:
    """Loads the file into a network for `classes`, those of its head in the order of its outputs.

    A head for the same classes is kept, its rows in the new order; any other starts anew, as does one whose classes
    nothing says. Raises ModelError for a file that does not fit, or is no longer the one that was looked at.
    """
    if file_sha256(start.file) != start.sha256:
        raise ModelError(f"{start.file} has changed since the run was named after it; run `convoy train` again.")
    state, head = _fitting(model, start), head_tensors(model)
    kept = {name: value for name, value in state.items() if name not in head}
    if start.classes is not None and sorted(start.classes) == sorted(classes):
        rows_K = [start.classes.index(name) for name in classes]
        kept |= {name: state[name][rows_K] for name in head & state.keys()}
    model.load_state_dict(kept, strict=False)


def _fitting(model: torch.nn.Module, start: Start) -> dict[str, torch.Tensor]:
    """The file's tensors, all of the body among them; stems for the model's number of channels."""
    try:
        with torch.device("cpu"):
            state = safetensors.torch.load_file(start.file)
    except safetensors.SafetensorError as exc:
        raise ModelError(f"{start.file} is no whole safetensors file ({exc}); fetch or export it again.") from exc
    adapt_stems(state, model, start.file)
    wanted, head = model.state_dict(), head_tensors(model)
    state = {name: value for name, value in state.items() if name in wanted}
    lacking = [
        name for name in wanted if name not in head and (name not in state or state[name].shape != wanted[name].shape)
    ]
    if lacking:
        raise ModelError(
            f"{start.file} does not fit model.backbone and model.options: {len(lacking)} tensors are missing or of "
            f"another shape, first {lacking[0]}; use the backbone and the options that the weights were made for."
        )
    return state


def head_tensors(model: torch.nn.Module) -> set[str]:
    """Names of the tensors with a row for each class."""
    names = model.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {name for name in model.state_dict() if name.startswith(prefixes)}

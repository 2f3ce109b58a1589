"""What a sweep searches: a file that says of some keys of params.yaml which values they may take.

optimizer.lr: {log: [0.0001, 0.01]}       # between two, evenly by the logarithm
augment.color_jitter: {uniform: [0.0, 0.4]}
training.label_smoothing: {choice: [0.0, 0.1]}
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline import params
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.launch.tune import Range, Value

KINDS = ("log", "uniform", "choice")


def read(path: Path) -> "dict[str, Range]":
    """By key, `section.name`. Raises ParamsError for what is no range; whether the keys exist is not looked at."""
    try:
        content = params.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ParamsError(f"{path} does not exist; give a file that says what to search.") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ParamsError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(content, Mapping) or not content:
        raise ParamsError(
            f"{path} must hold keys of params.yaml with their ranges, as `optimizer.lr: {{log: [1e-4, 1e-2]}}`."
        )
    return {key: _range(key, value, path) for key, value in content.items()}


def sections(values: "Mapping[str, Value]") -> dict[str, dict[str, object]]:
    """`section.name: value` as params.yaml has it: section by section."""
    changes: dict[str, dict[str, object]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        changes.setdefault(section, {})[name] = value
    return changes


def _range(key: object, value: object, path: Path) -> "Range":
    from pipeline.launch.tune import Range

    if not isinstance(key, str) or len(key.split(".")) != 2:
        raise ParamsError(f"{path}: {key} is no key of params.yaml; keys are `section.name`, as `optimizer.lr`.")
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, held),) = value.items()
        if kind == "choice" and isinstance(held, list) and held:
            return Range(choices=tuple(held))
        if kind in ("log", "uniform") and _is_range(held) and (kind == "uniform" or held[0] > 0):
            return Range(float(held[0]), float(held[1]), is_log=kind == "log")
    raise ParamsError(
        f"{path}: {key}: {value} is no range; use {{log: [low, high]}} with low over 0, {{uniform: [low, high]}} or "
        "{choice: [one, another]}."
    )


def _is_range(held: object) -> bool:
    return (
        isinstance(held, list)
        and len(held) == 2
        and all(isinstance(each, int | float) and not isinstance(each, bool) for each in held)
        and held[0] < held[1]
    )

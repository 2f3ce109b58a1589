"""A recipe: a few sections of params.yaml with values that were tried together, written over those of params.yaml.

Comments and what the recipe does not name stay as they are; nothing is written when the result would be refused.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline import params
from pipeline.errors import ParamsError
from pipeline.stages import layout
from pipeline.wording import counted

NULL_TAG = "tag:yaml.org,2002:null"


def recipe(name: str) -> None:
    """Writes `recipes/<name>.yaml`, or the file at this path, over params.yaml and says what changed."""
    path = find(name)
    before = layout.PARAMS.read_text(encoding="utf-8")
    after, changes = merged(before, path.read_text(encoding="utf-8"), path)
    partial = layout.PARAMS.with_name(".params.partial.yaml")
    partial.write_text(after, encoding="utf-8")
    try:
        params.read(partial)
    except ParamsError as exc:
        partial.unlink()
        raise ParamsError(f"{path} does not go with {layout.PARAMS}, which stays as it is:\n{exc}") from exc
    partial.replace(layout.PARAMS)
    print(f"{path}: {counted(len(changes), 'change')} of {layout.PARAMS}")
    for change in changes:
        print(f"  {change}")


def find(name: str) -> Path:
    """The recipe's file, by name or path. Raises ParamsError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else layout.RECIPES / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(each.stem for each in layout.RECIPES.glob("*.yaml"))) or "none"
        raise ParamsError(f"There is no recipe {path}; {layout.RECIPES}/ holds {names}. Give one of them, or a path.")
    return path


def merged(before: str, recipe: str, path: Path) -> tuple[str, list[str]]:
    """The text of params.yaml with the recipe's values in it, and a line for each value that differs.

    Raises ParamsError when the recipe is not a mapping of sections to mappings of keys; whether the keys exist is not
    looked at. `path` is for messages.
    """
    from ruamel.yaml import YAML, YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(type(None), lambda self, _: self.represent_scalar(NULL_TAG, "null"))
    try:
        content, wanted = yaml.load(before), YAML(typ="safe").load(recipe)
    except YAMLError as exc:
        raise ParamsError(f"{path} or {layout.PARAMS} is not YAML: {exc}") from exc
    if not isinstance(wanted, Mapping) or not all(isinstance(keys, Mapping) for keys in wanted.values()):
        raise ParamsError(f"{path} must hold sections of {layout.PARAMS} with the keys to change, and nothing else.")
    changes = list(_write(content, wanted))
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue(), changes


def _write(content: dict, wanted: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    for section, keys in wanted.items():
        held = content.setdefault(section, {})
        for key, value in keys.items():
            if key not in held or held[key] != value:
                yield f"{section}.{key}: {_shown(held.get(key))} -> {_shown(value)}"
                if isinstance(value, list) and isinstance(held.get(key), list):
                    held[key].clear()  # the list itself stays: it knows how it was written
                    held[key].extend(value)
                else:
                    held[key] = value


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

"""Who may import whom, read from the source: imports inside functions count, and so do import_module("...") calls."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

FOUNDATION = {
    "errors", "sections", "training_sections", "params", "path_names", "artifacts", "sample_table", "findings",
    "metrics", "ranking", "stores", "wording", "heap",
}  # fmt: skip

OURS = {
    "errors": set(),
    "sections": set(),
    "training_sections": {"sections"},
    "params": {"errors", "sections", "training_sections", "wording"},
    "path_names": set(),
    "artifacts": {"errors", "params"},
    "sample_table": {"errors", "artifacts"},
    "findings": {"errors", "sections", "params", "artifacts"},
    "metrics": {"artifacts"},
    "stores": {"errors"},
    "ranking": set(),
    "wording": set(),
    "heap": set(),
    "imaging": FOUNDATION,
    "sharding": FOUNDATION | {"imaging"},
    "loading": FOUNDATION | {"imaging"},
    "networks": set(),
    "modeling": FOUNDATION | {"imaging", "networks"},
    "evaluation": FOUNDATION | {"imaging"},
    "training": FOUNDATION | {"loading", "modeling"},
    "registry": FOUNDATION | {"imaging", "networks"},
    "launch": FOUNDATION,
    "tracking": FOUNDATION,
}
"""What of ours a package or module may import besides itself. `stages` and `__main__` may import everything."""

FOREIGN = {
    "ray": {"launch"},
    "lightning": {"training"},
    "pytorch_lightning": {"training"},
    "mlflow": {"tracking", "registry"},
    "dvc": set(),
}
"""The only packages that may import a framework, anywhere in their files."""

EDGES = {"stages", "__main__"}
EDGES_AT_TOP = FOUNDATION | {"stages", "typer", "rich", "pydantic", "yaml"} | sys.stdlib_module_names
"""What the edges may import outside a function; everything else waits until a command needs it."""


@dataclass(frozen=True)
class Import:
    name: str
    line: int
    at_top: bool


def imports_of(module: str, source: str) -> Iterator[Import]:
    """Every import in `source`; `module` is its dotted name, with `.__init__` for a package."""

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                home = module.rsplit(".", child.level)[0] if child.level else ""
                origin = ".".join(part for part in (home, child.module) if part)
                names = [f"{origin}.{alias.name}" for alias in child.names]
            elif isinstance(child, ast.Call) and _imports_by_call(child):
                names = [child.args[0].value]
            else:
                names = []
            yield from (Import(name, child.lineno, at_top) for name in names)
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types_only(child)
            yield from walk(child, at_top and not later)

    yield from walk(ast.parse(source), True)


def _imports_by_call(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__") and bool(call.args) and isinstance(call.args[0], ast.Constant)


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def violations(module: str, source: str) -> list[str]:
    """One line for each import that the tables forbid to `module`."""
    parts = module.split(".")
    owner = parts[1]
    found = []
    for each in imports_of(module, source):
        root, _, rest = each.name.partition(".")
        target = rest.partition(".")[0] if root == "pipeline" else root
        where = f"{module}:{each.line} imports {each.name}"
        if root in FOREIGN and owner not in FOREIGN[root]:
            found.append(f"{where}; {root} belongs in {' and '.join(sorted(FOREIGN[root])) or 'no module of ours'}")
        elif owner in EDGES:
            if each.at_top and target not in EDGES_AT_TOP:
                found.append(f"{where} at its top; move the import into the function that needs it")
        elif root == "pipeline" and target not in {"", owner} | OURS.get(owner, set()):
            allowed = ", ".join(sorted(OURS.get(owner, set()))) or "nothing of ours"
            found.append(f"{where}; {owner} may import {allowed}")
    return found


def modules(root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted((root / "pipeline").rglob("*.py")):
        yield ".".join(path.relative_to(root).with_suffix("").parts), path.read_text(encoding="utf-8")


def test_the_house_keeps_its_import_table(repository):
    found = [line for module, source in modules(repository) for line in violations(module, source)]
    assert not found, "\n" + "\n".join(found)


def test_every_module_has_its_row(repository):
    owners = {module.split(".")[1] for module, _ in modules(repository)}
    assert owners - EDGES - {"__init__"} <= OURS.keys()


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("pipeline.errors", "import pipeline.params", "errors may import nothing of ours"),
        ("pipeline.params", "from pipeline import artifacts", "params may import errors"),
        ("pipeline.__init__", "from pipeline.errors import ConvoyError", "__init__ may import nothing of ours"),
        ("pipeline.sharding.plan", "from pipeline.loading.order import order", "sharding may import"),
        ("pipeline.sharding.plan", "from ..loading import order", "sharding may import"),
        ("pipeline.sharding.__init__", "from ..loading import order", "sharding may import"),
        ("pipeline.sharding.plan", "def f():\n    import pipeline.evaluation.metrics", "plan:2 imports"),
        ("pipeline.sharding.plan", "importlib.import_module('pipeline.loading')", "sharding may import"),
        ("pipeline.modeling.backbone", "import pipeline.stages.layout", "modeling may import"),
        ("pipeline.training.fit", "from pipeline.evaluation import metrics", "training may import"),
        ("pipeline.evaluation.report", "from pipeline.registry import gate", "evaluation may import"),
        ("pipeline.stages.train", "def train():\n    from ray import train", "ray belongs in launch"),
        ("pipeline.training.module", "import ray.train", "ray belongs in launch"),
        ("pipeline.training.fit", "import mlflow", "mlflow belongs in registry and tracking"),
        ("pipeline.launch.local", "if TYPE_CHECKING:\n    import lightning.pytorch", "lightning belongs in training"),
        ("pipeline.stages.repro", "def repro():\n    import dvc.repo", "dvc belongs in no module of ours"),
        ("pipeline.stages.shard", "import torch", "at its top"),
        ("pipeline.stages.shard", "try:\n    import numpy\nfinally:\n    pass", "at its top"),
        ("pipeline.__main__", "from pipeline.sharding import plan", "at its top"),
        ("pipeline.brandnew.thing", "from pipeline.sharding import plan", "brandnew may import nothing of ours"),
    ],
)
def test_a_forbidden_import_is_found(module, source, complaint):
    (line,) = violations(module, source)
    assert complaint in line


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.artifacts", "from pipeline.errors import ArtifactError\nimport numpy"),
        ("pipeline.sharding.write", "from pipeline.sharding.plan import plan\nfrom . import plan"),
        ("pipeline.training.fit", "from pipeline.loading import batches\nimport lightning.pytorch as pl\nimport torch"),
        ("pipeline.launch.local", "def launch():\n    import ray.train.torch"),
        ("pipeline.stages.shard", "import json\nfrom pipeline.stages import layout\nfrom pipeline import params"),
        ("pipeline.stages.shard", "def shard():\n    import torch\n    from pipeline.sharding import plan"),
        ("pipeline.stages.shard", "if TYPE_CHECKING:\n    import torch"),
        ("pipeline.__main__", "import typer"),
        ("pipeline.registry.package", "import pipeline"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert violations(module, source) == []

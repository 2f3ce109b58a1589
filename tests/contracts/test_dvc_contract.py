"""dvc.yaml, the stages' signatures and stages/layout.py tell one story."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import yaml

from pipeline import params
from pipeline.stages import layout

STAGES = ("scan", "shard", "train", "evaluate", "register")
NO_OUTPUT = {layout.PARAMS, layout.DEMO, layout.SHARDS_WORK}
"""What a stage may touch without DVC: its params, raw images, which DVC never hashes, and what a killed run is to find
again, since DVC removes a stage's outputs before the stage runs."""

CONSTANTS = {name: path for name, path in vars(layout).items() if isinstance(path, Path)}


@pytest.fixture(scope="module")
def dvc_file(repository):
    return yaml.safe_load((repository / "dvc.yaml").read_text(encoding="utf-8"))


def paths_of(stage: dict, kind: str) -> set[Path]:
    return {Path(path) for entry in stage.get(kind, []) for path in _names(entry)}


def paths_named_in(source: str) -> set[Path]:
    """The layout's paths that a module refers to, as `layout.X` or as an imported X."""
    named = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "layout":
            named.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "pipeline.stages.layout":
            named.update(alias.name for alias in node.names)
    return {CONSTANTS[name] for name in named}


def undeclared(source: str, stage: dict) -> set[Path]:
    """Paths that a stage's module names and that its entry in dvc.yaml does not cover."""
    declared = paths_of(stage, "deps") | paths_of(stage, "outs")
    return {
        path for path in paths_named_in(source) - NO_OUTPUT if not any(path.is_relative_to(each) for each in declared)
    }


def unused(source: str, stage: dict) -> set[Path]:
    """Paths of a stage's entry in dvc.yaml that its module never names, neither them nor what lies in them."""
    named = paths_named_in(source)
    return {
        path
        for path in paths_of(stage, "deps") | paths_of(stage, "outs")
        if not any(each.is_relative_to(path) for each in named)
    }


def test_the_stages_are_the_designs_in_order(dvc_file):
    assert tuple(dvc_file["stages"]) == STAGES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_runs_its_command(dvc_file, name):
    assert dvc_file["stages"][name]["cmd"] == f"python -m pipeline {name}"
    assert dvc_file["stages"][name]["desc"]


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_arguments_are_its_params(dvc_file, name):
    function = getattr(importlib.import_module(f"pipeline.stages.{name}"), name)
    signature = inspect.signature(function, eval_str=True)
    assert list(signature.parameters) == dvc_file["stages"][name]["params"]
    for section, argument in signature.parameters.items():
        assert argument.annotation is params.Params.model_fields[section].annotation, section


def test_every_section_decides_something(dvc_file):
    read = {section for stage in dvc_file["stages"].values() for section in stage["params"]}
    assert read == params.Params.model_fields.keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_touches_what_it_declares_and_nothing_else(dvc_file, repository, name):
    source = (repository / "pipeline" / "stages" / f"{name}.py").read_text(encoding="utf-8")
    stage = dvc_file["stages"][name]
    assert undeclared(source, stage) == set()
    assert unused(source, stage) == set()


def test_every_path_is_in_the_layout(dvc_file):
    figures = [path for kind in ("metrics", "plots") for each in dvc_file[kind] for path in _names(each)]
    in_stages = [
        path for stage in dvc_file["stages"].values() for kind in ("deps", "outs") for path in paths_of(stage, kind)
    ]
    assert {*map(Path, figures), *in_stages} <= set(CONSTANTS.values())


def _names(entry: str | dict) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry)


def test_a_dependency_is_an_output_of_an_earlier_stage(dvc_file):
    made = set()
    for name, stage in dvc_file["stages"].items():
        for path in paths_of(stage, "deps"):
            assert any(path.is_relative_to(each) for each in made), f"{name} waits for {path}"
        assert not paths_of(stage, "outs") & made
        made |= paths_of(stage, "outs")


def test_only_the_shards_outlive_the_start_of_their_stage(dvc_file):
    outs = [entry for stage in dvc_file["stages"].values() for entry in stage["outs"] if isinstance(entry, dict)]
    assert outs == [{str(layout.SHARDS): {"persist": True}}]


def test_only_scan_always_runs(dvc_file):
    assert [name for name, stage in dvc_file["stages"].items() if stage.get("always_changed")] == ["scan"]


def test_an_undeclared_path_and_an_unused_one_are_found():
    stage = {"deps": ["data/model"], "outs": ["data/report"]}
    source = "from pipeline.stages import layout\nread(layout.INDEX)\nwrite(layout.METRICS)"
    assert undeclared(source, stage) == {layout.INDEX}
    assert unused(source, stage) == {layout.MODEL}
    imported = "from pipeline.stages.layout import MODEL, REPORT, RUN"
    assert undeclared(imported, stage) == {layout.RUN}
    assert unused(imported, stage) == set()

"""dvc.yaml, the stages' signatures and stages/layout.py tell one story."""

import ast
import importlib
import inspect
import re
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
    arguments = {key: each.annotation for key, each in inspect.signature(function, eval_str=True).parameters.items()}
    named = list(dict.fromkeys(entry.partition(".")[0] for entry in dvc_file["stages"][name]["params"]))
    assert [section for section in arguments if section in named] == named
    for section, annotation in arguments.items():
        assert annotation is params.Params.model_fields[section].annotation, section
    assert untold(arguments, sources_of(name), dvc_file["stages"][name]["params"]) == set()


def sources_of(stage: str) -> list[str]:
    """The stage's own module and those of `stages` that it hands its sections to."""
    found, waiting = {}, [stage]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = (Path(layout.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
            waiting += re.findall(r"^ *from pipeline\.stages\.(\w+) import", found[name], re.MULTILINE)
    return list(found.values())


def untold(arguments: dict, sources: list[str], entries: list[str]) -> set[str]:
    """Keys that a stage reads, that decide what it makes, and that its `params` in dvc.yaml do not name."""
    trees = [ast.parse(source) for source in sources]
    read = set()
    for section, annotation in arguments.items():
        if section not in entries:
            nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
            keys = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == section}
            # What is no key (`model_dump`) may read any of them.
            keys = keys if keys <= annotation.model_fields.keys() else {*keys, *annotation.model_fields}
            read |= {f"{section}.{key}" for key in keys - annotation.not_in_fingerprint}
    return read - set(entries)


def test_every_section_decides_something(dvc_file):
    read = {entry.partition(".")[0] for stage in dvc_file["stages"].values() for entry in stage["params"]}
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


def test_a_key_that_dvc_is_not_told_of_is_found():
    arguments = {"data": params.Data, "shards": params.Shards, "cluster": params.Cluster}
    told = ["data", "shards.jpeg_quality"]
    speed = "write(data.source, shards.jpeg_quality, shards.num_workers, cluster.address)"
    assert untold(arguments, [speed], told) == set()
    assert untold(arguments, [speed, "root(cluster.storage)"], told) == {"cluster.storage"}
    assert untold(arguments, ["shards.short_side_px"], told) == {"shards.short_side_px"}
    assert "shards.destination" in untold(arguments, ["shards.model_dump()"], told)

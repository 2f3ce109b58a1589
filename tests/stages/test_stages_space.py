"""What a sweep may be asked to search, and how it answers what is no range."""

import pytest

from pipeline.errors import ParamsError
from pipeline.launch.tune import Range
from pipeline.stages import space


def read(tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    return space.read(tmp_path / "space.yaml")


def test_three_kinds_of_ranges(tmp_path):
    text = "a.lr: {log: [1e-3, 1]}\na.drop: {uniform: [0, 0.5]}\nb.name: {choice: [x, null, 3]}\n"
    assert read(tmp_path, text) == {
        "a.lr": Range(0.001, 1.0, is_log=True),
        "a.drop": Range(0.0, 0.5),
        "b.name": Range(choices=("x", None, 3)),
    }


@pytest.mark.parametrize(
    "text",
    [
        "a.b: 1", "a.b: [1, 2]", "a.b: {}", "a.b: {log: [0, 1]}", "a.b: {log: [2, 1]}", "a.b: {uniform: [1]}",
        "a.b: {uniform: [a, b]}", "a.b: {uniform: [false, true]}", "a.b: {choice: []}", "a.b: {choice: x}",
        "a.b: {grid: [1, 2]}", "a.b: {uniform: [0, 1], log: [1, 2]}",
    ],
)  # fmt: skip
def test_what_is_no_range_is_answered_with_the_three_that_are(tmp_path, text):
    with pytest.raises(ParamsError, match=r"space\.yaml: a\.b: .* is no range; use \{log: \[low, high\]\}"):
        read(tmp_path, text)


@pytest.mark.parametrize("key", ["lr", "a.b.c", "1"])
def test_keys_name_a_section_and_a_field(tmp_path, key):
    with pytest.raises(ParamsError, match=rf"{key} is no key of params\.yaml; keys are `section\.name`"):
        read(tmp_path, f"{key}: {{choice: [1]}}")


@pytest.mark.parametrize("text", ["", "[]", "text"])
def test_a_space_is_keys_with_ranges(tmp_path, text):
    with pytest.raises(ParamsError, match=r"must hold keys of params\.yaml with their ranges"):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_no_yaml(tmp_path):
    with pytest.raises(ParamsError, match=r"none\.yaml does not exist; give a file that says what to search"):
        space.read(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match=r"space\.yaml is not YAML"):
        read(tmp_path, "a: [1")


def test_values_go_back_into_their_sections():
    values = {"a.lr": 0.1, "b.name": "x", "a.drop": 0.2}
    assert space.sections(values) == {"a": {"lr": 0.1, "drop": 0.2}, "b": {"name": "x"}}

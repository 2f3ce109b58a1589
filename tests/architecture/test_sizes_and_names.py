"""A file is read in one sitting and named after one idea."""

import ast

import pytest

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 70
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


def complaints(name: str, source: str) -> list[str]:
    """What is too long in one file, or named after nothing; `name` is its path without the ending."""
    lines = len(source.splitlines())
    found = [f"{name} has {lines} lines, over {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []
    found += [f"{name} is named {part!r}" for part in name.split("/") if part in NAMES_THAT_SAY_NOTHING]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{name}:{node.lineno} {node.name} has {length} lines, over {MAX_FUNCTION_LINES}")
    return found


def test_files_and_functions_fit_on_their_screens(repository):
    sources = [path for folder in ("pipeline", "benchmarks") for path in (repository / folder).rglob("*.py")]
    assert sources
    found = [
        line
        for path in sorted(sources)
        for line in complaints(str(path.relative_to(repository).with_suffix("")), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("pipeline/long", "x = 1\n" * 301, "301 lines"),
        ("pipeline/deep", "class A:\n    def f(self):\n" + "        x = 1\n" * 70, "f has 71 lines"),
        ("pipeline/loading/utils", "", "'utils'"),
        ("pipeline/common/order", "", "'common'"),
    ],
)
def test_what_is_too_long_or_named_after_nothing_is_found(name, source, complaint):
    (line,) = complaints(name, source)
    assert complaint in line

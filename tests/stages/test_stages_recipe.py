"""A recipe changes what it names in params.yaml and nothing else, or nothing at all."""

import subprocess
import sys

import projects
import pytest
import yaml

from pipeline import params
from pipeline.errors import ParamsError
from pipeline.stages import recipe

TRAINING_SECTIONS = {"shards", "loading", "augment", "model", "optimizer", "schedule", "training", "transfer"}

PARAMS = "# the head\na:\n  one: 1     # why\n  two: [0.6, 1.0]\n  three: null\nb:\n  four: x\n"


def merged(text: str) -> tuple[str, list[str]]:
    return recipe.merged(PARAMS, text, "recipes/r.yaml")


def test_what_is_named_changes_and_comments_stay():
    after, changes = merged("a: {one: 2, two: [0.1, 1.0]}\n")
    assert after == "# the head\na:\n  one: 2     # why\n  two: [0.1, 1.0]\n  three: null\nb:\n  four: x\n"
    assert changes == ["a.one: 1 -> 2", "a.two: [0.6, 1.0] -> [0.1, 1.0]"]


def test_what_is_so_already_is_no_change():
    assert merged("a: {one: 1, three: null}\n") == (PARAMS, [])


def test_null_and_truth_are_shown_as_params_yaml_writes_them():
    assert merged("a: {three: true}\nb: {four: null}\n")[1] == ["a.three: null -> true", "b.four: x -> null"]


@pytest.mark.parametrize("text", ["1\n", "- a\n", "a: 1\n", "a: {one: 2}\nb: [1]\n"])
def test_a_recipe_holds_sections_with_keys(text):
    with pytest.raises(
        ParamsError, match=r"recipes/r\.yaml must hold sections of params\.yaml with the keys to change"
    ):
        merged(text)


def test_text_that_is_no_yaml_is_refused():
    with pytest.raises(ParamsError, match=r"recipes/r\.yaml or params\.yaml is not YAML"):
        merged("a: [1\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = projects.write(tmp_path / "project", projects.SMALL)
    (folder / "recipes").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_name_and_a_path_find_the_same_recipe(project, capsys):
    (project / "recipes" / "short.yaml").write_text("training: {epochs: 3}\n")
    recipe.recipe("short")
    assert params.read(project / "params.yaml")["training"].epochs == 3
    said = capsys.readouterr().out
    assert said == "recipes/short.yaml: 1 change of params.yaml\n  training.epochs: 1 -> 3\n"
    recipe.recipe("recipes/short.yaml")
    assert capsys.readouterr().out == "recipes/short.yaml: 0 changes of params.yaml\n"


def test_one_that_does_not_exist_is_answered_with_those_that_do(project):
    for name in ("long", "short"):
        (project / "recipes" / f"{name}.yaml").write_text("{}\n")
    with pytest.raises(ParamsError, match=r"no recipe recipes/quik\.yaml; recipes/ holds long, short\. Give one"):
        recipe.recipe("quik")


def test_a_recipe_that_params_refuse_changes_nothing(project):
    before = (project / "params.yaml").read_bytes()
    (project / "recipes" / "wrong.yaml").write_text("training: {epochs: 3, eposh: 4}\n")
    with pytest.raises(ParamsError, match=r"(?s)does not go with params\.yaml, which stays.*eposh is not a key"):
        recipe.recipe("wrong")
    assert (project / "params.yaml").read_bytes() == before
    assert not list(project.glob(".params*"))


def test_repro_takes_a_recipe(project):
    (project / "recipes" / "wrong.yaml").write_text("training: {epochs: 0}\n")
    command = [sys.executable, "-m", "pipeline", "repro", "--recipe", "wrong"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 1
    assert "training.epochs=0" in done.stderr


SHIPPED = sorted((projects.REPOSITORY / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_goes_with_params_yaml(repository, tmp_path, path):
    """It says how to train, not what on; and all of it, so that it is the same after another recipe."""
    text = path.read_text(encoding="utf-8")
    after, changes = recipe.merged((repository / "params.yaml").read_text(encoding="utf-8"), text, path)
    (tmp_path / "params.yaml").write_text(after, encoding="utf-8")
    params.read(tmp_path / "params.yaml")
    assert {change.split(".")[0] for change in changes} <= TRAINING_SECTIONS
    named = yaml.safe_load(text)
    for section in ("augment", "model", "transfer", "optimizer", "schedule"):
        assert list(named[section]) == list(params.Params.model_fields[section].annotation.model_fields), section
    head = text.split("shards:")[0]
    assert all(
        f"# {word}" in head for word in ("Command    convoy repro --recipe " + path.stem, "Hardware", "Measured")
    )


def test_the_docs_list_the_recipes(repository):
    page = (repository / "docs" / "training.md").read_text(encoding="utf-8")
    assert all(f"| `{path.stem}` |" in page for path in SHIPPED)
    assert len(SHIPPED) == 5

"""Rows 26 and 27: eight registrations at once in a store that nobody has used, of one model and of eight: one version
or eight, one experiment, and the best is champion, whoever came last."""

import json

import projects
import pytest
import registrable
import train_commands

from pipeline.tracking import store


def register_at_once(folder, seeds, figures):
    """Each project's registration, by eight processes that start together; and the store's client."""
    uri = f"sqlite:///{folder / 'shared' / 'mlflow.db'}"
    commands = []
    for number, (seed, top1) in enumerate(zip(seeds, figures, strict=True)):
        project = projects.write(folder / str(number), projects.SMALL, {"tracking": {"uri": uri}})
        registrable.write(project, tracking_uri=uri, seed=seed, top1=top1)
        commands.append(train_commands.Command(project, command="register"))
    for command in commands:
        assert command.wait().exit_code == 0, command.said
    client = store.connect(uri)
    assert [each.name for each in client.search_experiments() if each.name != "Default"] == ["convoy"]
    registrations = [json.loads((folder / str(k) / "data/registration.json").read_text()) for k in range(len(commands))]
    return registrations, client, [command.said for command in commands]


@pytest.mark.long_fault
def test_one_model_is_one_version(tmp_path):
    registrations, client, said = register_at_once(tmp_path, seeds=[0] * 8, figures=[0.95] * 8)
    assert [each["version"] for each in registrations] == ["1"] * 8
    assert [str(each.version) for each in client.search_model_versions("name = 'convoy-demo'")] == ["1"]
    assert {name: str(version) for name, version in client.get_registered_model("convoy-demo").aliases.items()} == {
        "champion": "1"
    }
    assert sum("waiting for the process that holds" in text for text in said) == 7


@pytest.mark.long_fault
def test_eight_models_are_eight_versions_and_the_best_is_champion(tmp_path):
    figures = [0.93, 0.91, 0.97, 0.92, 0.9, 0.96, 0.94, 0.95]
    registrations, client, _ = register_at_once(tmp_path, seeds=range(8), figures=figures)
    assert sorted(int(each["version"]) for each in registrations) == list(range(1, 9))
    best = registrations[2]["version"]
    assert str(client.get_registered_model("convoy-demo").aliases["champion"]) == best
    in_turn = sorted(registrations, key=lambda each: int(each["version"]))
    record = 0.0
    for each in in_turn:  # the alias moves for a better one only, and each says what became of it
        assert each["promoted"] == (each["top1"] > record)
        assert each["alias"] == ("champion" if each["promoted"] else "challenger")
        assert each["reasons"]
        record = max(record, each["top1"])

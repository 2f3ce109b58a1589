"""Row 36: killed when it has trained, when it has evaluated and while it registers: the rerun does the rest only."""

import json
import signal

import train_commands
from audits import NO_PICTURES, audit_with
from train_commands import Command

from pipeline.stages import layout
from pipeline.tracking import store


def died(folder, command, where):
    ended = Command(folder, command=command, dies_in=where).wait()
    assert ended.exit_code == -signal.SIGKILL, ended.said


def done(folder, command):
    ended = Command(folder, command=command).wait()
    assert ended.exit_code == 0, ended.said


def test_nothing_is_done_twice(project):
    folder = project()
    died(folder, "train", "pipeline.stages.train._export")  # trained; nothing of it published
    run = train_commands.the_run(folder)
    ledgers = {path: path.read_bytes() for path in run.glob("ledger/*")}
    done(folder, "train")
    audit_with().write(folder / layout.AUDIT)
    NO_PICTURES.write(folder / layout.AUDIT_PICTURES)
    assert {path: path.read_bytes() for path in run.glob("ledger/*")} == ledgers
    weights = (folder / "data" / "model" / "model.safetensors").read_bytes()

    died(folder, "evaluate", "pipeline.stages.publish._replace")
    assert not (folder / "data" / "report").exists()
    done(folder, "evaluate")

    died(folder, "register", "pipeline.registry.package.check")  # logged, no version yet
    died(folder, "register", "pipeline.registry.lineage.complete_run")  # a version, no verdict yet
    died(folder, "register", "pipeline.stages.publish._replace")  # all of it, but for its file
    assert not (folder / "data" / "registration.json").exists()
    done(folder, "register")
    registration = json.loads((folder / "data" / "registration.json").read_text())
    assert (registration["version"], registration["alias"]) == ("1", "champion")
    client = store.connect(f"sqlite:///{folder / 'mlflow.db'}")
    assert len(client.search_model_versions("name = 'convoy-demo'")) == 1
    assert len(client.search_logged_models([client.get_experiment_by_name("convoy").experiment_id])) == 1
    train_commands.published_once(folder)
    assert (folder / "data" / "model" / "model.safetensors").read_bytes() == weights

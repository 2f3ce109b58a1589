"""Rows 25 and 30: killed and resumed three times, each time under another clock: one MLflow run, each metric of each
step once, no negative duration, and what nothing disturbed would have given."""

import json
import os

import train_commands
from train_commands import Fault

DAY_SECONDS = 86_400


def test_one_mlflow_run_under_any_clock(undisturbed, project):
    folder = project()
    kills = [Fault("kill", step=step) for step in (3, 7, 12)]
    for shift, kill in zip((0, DAY_SECONDS, -DAY_SECONDS), kills, strict=True):
        assert train_commands.train(folder, kill, clock_shift_seconds=shift).exit_code == -9
        for path in train_commands.the_run(folder).rglob("*"):
            os.utime(path, (0, 0))
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    run = train_commands.the_run(folder)
    assert train_commands.history(run) == train_commands.history(undisturbed)
    assert train_commands.same_weights(run, undisturbed)

    (page,) = train_commands.mlflow_runs(folder)
    assert (page.info.status, page.data.tags["attempts"]) == ("FINISHED", "4")
    for key in ("train/loss", "train/lr", "val/top1", "train/images_per_second"):
        wanted = [5, 10, 15] if key.startswith("val/") else list(range(1, 16))
        assert sorted(train_commands.metric_steps(folder, page.info.run_id, key)) == wanted, key

    result = json.loads((run / "result.json").read_text())
    assert result["train_seconds"] > 0
    assert result["attempts"] == 4
    assert all(row["images_per_second"] > 0 for row in result["history"])

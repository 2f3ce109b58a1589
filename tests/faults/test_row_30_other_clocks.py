"""Row 30: a clock a day ahead or behind between attempts, and files of 1970: the newest checkpoint is the one of the
highest step, no duration is negative, and the end is what nothing disturbed would have given."""

import json
import os

import train_commands
from train_commands import Fault

DAY_SECONDS = 86_400


def test_steps_tell_what_is_newest(undisturbed, project):
    folder = project()
    for shift, step in ((DAY_SECONDS, 3), (-DAY_SECONDS, 12)):
        assert train_commands.train(folder, Fault("kill", step), clock_shift_seconds=shift).exit_code == -9
        for path in train_commands.the_run(folder).rglob("*"):
            os.utime(path, (0, 0))
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    train_commands.ended_as(undisturbed, folder)
    result = json.loads((train_commands.the_run(folder) / "result.json").read_text())
    assert result["train_seconds"] > 0
    assert result["attempts"] == 3
    assert all(row["images_per_second"] > 0 for row in result["history"])
    (page,) = train_commands.mlflow_runs(folder)  # begun a day ahead, ended today
    assert page.info.end_time >= page.info.start_time
    assert sorted(train_commands.metric_steps(folder, page.info.run_id, "train/loss")) == list(range(1, 16))

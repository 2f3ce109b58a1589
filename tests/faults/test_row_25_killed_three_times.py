"""Row 25: killed and resumed three times: one MLflow run, each metric of each step once, attempts as a tag."""

import train_commands
from train_commands import Fault


def test_one_mlflow_run_with_each_step_once(undisturbed, project):
    folder = project()
    for step in (3, 7, 12):
        assert train_commands.train(folder, Fault("kill", step)).exit_code == -9
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    train_commands.ended_as(undisturbed, folder)
    page = train_commands.published_once(folder, attempts=4)
    for key in ("train/loss", "train/lr", "val/top1", "train/images_per_second"):
        wanted = [5, 10, 15] if key.startswith("val/") else list(range(1, 16))
        assert sorted(train_commands.metric_steps(folder, page.info.run_id, key)) == wanted, key

"""Row 4: a changed parameter, or one changed image, and the same command: a fresh run, the old folder untouched."""

import shutil

import pytest
import shard_sets
import train_commands


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("change", ["parameter", "image"])
def test_a_fresh_run_beside_the_old_one(undisturbed, project, change):
    folder = project()
    old = folder / "runs" / undisturbed.name
    shutil.copytree(undisturbed, old)
    before = contents(old)
    if change == "parameter":
        params = (folder / "params.yaml").read_text()
        (folder / "params.yaml").write_text(params.replace("weight_decay: 0.05", "weight_decay: 0.04"))
    else:
        shutil.rmtree(folder / "data" / "shards")
        shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7], "test": [6]})
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    assert contents(old) == before
    (fresh,) = [path for path in (folder / "runs").iterdir() if path != old]
    assert train_commands.history(fresh)[0][0] == 0
    assert not train_commands.same_weights(fresh, old) or change == "image"
    assert f"run {fresh.name}: all of 3 epochs; 15 steps" in done.said


def test_what_only_changes_speed_keeps_the_run(undisturbed, project):
    folder = project(loading={"workers_per_rank": 0}, cluster={"max_failures": 9, "hang_seconds": 9.0})
    shutil.copytree(undisturbed, folder / "runs" / undisturbed.name)
    done = train_commands.train(folder)
    assert done.exit_code == 0, done.said
    assert train_commands.the_run(folder).name == undisturbed.name
    assert len(list((folder / "runs" / undisturbed.name / "ledger").iterdir())) == 1

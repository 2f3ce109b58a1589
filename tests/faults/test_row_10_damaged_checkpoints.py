"""Row 10: the newest checkpoint is truncated, emptied, flipped or lacks its list: the one before it is used, and said.
All of them damaged: a clear error and exit 1. tests/training/test_checkpoint.py has every kind of damage."""

import train_commands
from train_commands import Fault

from pipeline.training import checkpoint


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_one_before_is_used_and_with_none_left_the_stage_fails(undisturbed, project):
    folder = project()
    assert train_commands.train(folder, Fault("kill", step=8)).exit_code == -9
    run = train_commands.the_run(folder)
    newest, before, *_ = checkpoint.positions(run / "checkpoints")
    whole = {path: path.read_bytes() for path in (run / "checkpoints").glob("step-*/state.pt")}

    for path in whole:
        flip_a_byte(path)
    failed = train_commands.train(folder)
    assert failed.exit_code == 1
    assert f"error: All {len(whole)} checkpoints in {run / 'checkpoints'} are damaged; remove {run}" in failed.said

    for path, data in whole.items():
        path.write_bytes(data)
    flip_a_byte(run / "checkpoints" / f"step-{newest:09d}" / "state.pt")
    resumed = train_commands.train(folder)
    assert resumed.exit_code == 0, resumed.said
    assert f"checkpoint step-{newest:09d} is damaged (state.pt has another sha256" in resumed.said
    train_commands.ended_as(undisturbed, folder)
    assert before in first_steps(run)


def first_steps(run):
    """Where each attempt that took a step began."""
    paths = [path for path in sorted((run / "ledger").iterdir()) if path.stat().st_size]
    return [int(path.read_text().split('"step": ')[1].split(",")[0]) for path in paths]

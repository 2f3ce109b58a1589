"""Row 9: an exception in every step fails once, with its traceback."""

import train_commands
from train_commands import Fault


def test_a_bug_ends_the_stage_at_once_with_its_traceback(project):
    folder = project()
    done = train_commands.train(folder, Fault("bug", step=2))
    assert done.exit_code == 70
    assert 'KeyError: "a bug of the user\'s"' in done.said
    assert "train_commands.py" in done.said
    assert len(list((train_commands.the_run(folder) / "ledger").iterdir())) == 1
    assert not (folder / "data" / "model").exists()

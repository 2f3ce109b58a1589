"""What the train stage prints where there is no terminal, from its own run's spool."""

import re

import projects
import pytest
import shard_sets

from pipeline import params
from pipeline.stages import layout
from pipeline.stages.task import sections_of_task
from pipeline.stages.train import train


@pytest.mark.parametrize("num_validation", [0, 7])
def test_every_epoch_is_a_line_with_or_without_a_validation_split(tmp_path, monkeypatch, capsys, num_validation):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    changes = {"model": {"input_px": 32}, "training": {"epochs": 3}}
    folder = projects.write(tmp_path / "project", projects.SMALL, changes)
    monkeypatch.chdir(folder)
    sizes = {"train": [20, 23]} | ({"validation": [num_validation]} if num_validation else {})
    shard_sets.write(folder / "data" / "shards", sizes)
    train(**params.read(layout.PARAMS, sections_of_task()))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    validation = r" \| validation top-1 [01]\.\d{4} loss \d+\.\d{4}" if num_validation else ""
    assert len(lines) == 3
    for epoch, line in enumerate(lines, start=1):
        told = rf"epoch {epoch}/3 step {2 * epoch}/6 \| loss \d+\.\d{{4}} \| [\d,]+ img/s{validation}( \| wait \d+ %)?"
        assert re.fullmatch(told + ("" if epoch == 3 else r" \| \d+ (s|min) left"), line), line

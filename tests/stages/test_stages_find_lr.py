"""`convoy find-lr`: on a problem that one rate solves and another destroys, and how its chart is drawn."""

import json
import re

import projects
import pytest
import shard_sets
import yaml

from pipeline.errors import ParamsError
from pipeline.stages import layout
from pipeline.stages.find_lr import chart, find_lr
from pipeline.training import lr_range
from pipeline.training.lr_range import Finding, Tried
from pipeline.training.trial import Trial


@pytest.fixture
def project(tmp_path, monkeypatch):
    sgd = {"optimizer": {"name": "sgd", "momentum": 0.0}, "training": {"clip_norm": None}}
    folder = projects.write(tmp_path / "project", projects.SMALL, sgd, {"model": {"input_px": 32}})
    monkeypatch.chdir(folder)
    shard_sets.write(folder / "data" / "shards", {"train": [20, 23], "validation": [7]})
    return folder


def test_rates_too_high_for_the_network_are_found_out_and_nothing_is_kept(project, capsys):
    before = sorted(path for path in project.rglob("*"))
    find_lr(1e-3, 1e8, 12, as_json=True)
    said = json.loads(capsys.readouterr().out)
    rates = [each["lr"] for each in said["tried"]]
    assert rates[0] == pytest.approx(1e-3)
    assert len(rates) < 12, "it went on after the loss had come apart"
    assert sorted(path for path in project.rglob("*")) == before


def test_it_answers_in_words_and_the_same_twice(project, capsys):
    find_lr(1e-4, 1e-1, 4, as_json=False)
    once = capsys.readouterr().out
    find_lr(1e-4, 1e-1, 4, as_json=False)
    assert capsys.readouterr().out == once
    assert "learning rate" in once
    assert "Try optimizer.lr: " in once or "The loss never fell" in once


@pytest.mark.parametrize(("lowest", "highest"), [(1.0, 0.1), (0.1, 0.1), (0.0, 0.1), (-1.0, 0.1)])
def test_rates_in_the_wrong_order_are_refused(project, lowest, highest):
    with pytest.raises(
        ParamsError, match=rf"--lowest {lowest:g} and --highest 0\.1 must be rates over 0, in this order"
    ):
        find_lr(lowest, highest, 10, as_json=False)


def test_what_it_suggests_is_what_the_losses_say(project, capsys, monkeypatch):
    losses = [2.0, 1.8, 1.0, 0.5, 1.0]
    tried = [Tried(10.0**-n, loss, loss) for n, loss in zip(range(5, 0, -1), losses, strict=True)]
    monkeypatch.setattr(lr_range, "climb", lambda *_, **__: iter(tried))
    find_lr(1e-5, 1e-1, 5, as_json=False)
    said = capsys.readouterr().out
    finding = lr_range.judge(tried)
    assert f"The loss falls fastest at {finding.steepest:.2g} and is lowest at 0.01.\n" in said
    assert f"Try optimizer.lr: {finding.suggested:.2g} (now 0.003)." in said
    find_lr(1e-5, 1e-1, 5, as_json=True)
    assert json.loads(capsys.readouterr().out)["finding"] == vars(finding)
    tried.pop()
    find_lr(1e-5, 1e-1, 5, as_json=False)
    assert "lowest at 0.01, the highest rate of all: none was too high, so that the" in capsys.readouterr().out


def test_each_step_has_a_batch_of_its_own(project, monkeypatch):
    seen = []
    monkeypatch.setattr(Trial, "step", lambda self, batch, lr: seen.append(tuple(batch.keys_B.tolist())) or 1.0)
    find_lr(1e-4, 1e-1, 4, as_json=True)
    assert len(set(seen)) == 4


def test_it_trains_on_the_part_that_the_run_trains_on(project):
    content = yaml.safe_load(layout.PARAMS.read_text())
    content["loading"]["subset_fraction"] = 0.2
    layout.PARAMS.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ParamsError, match=r"loading\.global_batch_size=16 is more than the \d training samples"):
        find_lr(1e-4, 1e-1, 4, as_json=True)


def test_the_chart_falls_where_the_loss_falls():
    losses = [2.0, 1.8, 1.0, 0.5, 1.0, 9.0]
    lines = chart([Tried(10.0**-n, loss, loss) for n, loss in zip(range(6, 0, -1), losses, strict=True)], None)
    heights = {column: row for row, line in enumerate(lines) for column in [m.start() for m in re.finditer("●", line)]}
    in_order = [heights[column] for column in sorted(heights)]
    assert len(in_order) == 6
    assert in_order[0] < in_order[1] < in_order[2] < in_order[3] > in_order[4] > in_order[5]
    assert lines[-1].split()[0] == "1e-06"
    assert lines[-1].split()[-1] == "0.1"
    assert max(map(len, lines)) <= 80


def test_the_suggestion_is_marked_in_the_chart():
    losses = [2.0, 1.8, 1.0, 0.5]
    tried = [Tried(10.0**-n, loss, loss) for n, loss in zip(range(6, 2, -1), losses, strict=True)]
    marked = chart(tried, Finding(suggested=1e-4, lowest=1e-3, steepest=1e-4))
    assert sum("┊" in line for line in marked) >= 10
    assert not any("┊" in line for line in chart(tried, None))
    assert chart([], None) == []

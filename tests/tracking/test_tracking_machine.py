"""The machine's figures stand beside the first metrics of a step, once."""

import psutil

from pipeline.tracking.machine import WithMachine
from pipeline.tracking.spool import Position, Spool, read

FIGURES = {"system/cpu_fraction", "system/memory_fraction", "system/rank_memory_bytes", "system/disk_free_bytes"}


def test_each_step_has_them_once(tmp_path):
    sink = WithMachine(Spool(tmp_path / "metrics.jsonl"), tmp_path)
    sink.append(1, {"train/loss": 1.0})
    sink.append(2, {"train/loss": 0.5}, epoch=1)
    sink.append(2, {"val/loss": 0.6}, epoch=1)
    lines, _ = read(tmp_path / "metrics.jsonl", Position(), 2)
    assert [line.metrics.keys() & FIGURES for line in lines] == [FIGURES, FIGURES, set()]
    assert [line.metrics.keys() - FIGURES for line in lines] == [{"train/loss"}, {"train/loss"}, {"val/loss"}]
    assert [line.epoch for line in lines] == [None, 1, 1]


def test_they_are_what_the_system_says(tmp_path):
    sink = WithMachine(Spool(tmp_path / "metrics.jsonl"), tmp_path)
    before = psutil.cpu_times().user
    while psutil.cpu_times().user == before:
        sum(range(100_000))  # the system counts time in ticks
    sink.append(1, {})
    [line], _ = read(tmp_path / "metrics.jsonl", Position(), 1)
    assert 0.0 < line.metrics["system/cpu_fraction"] <= 1.0
    assert abs(line.metrics["system/memory_fraction"] - psutil.virtual_memory().percent / 100) < 0.05
    mine = psutil.Process().memory_info().rss
    assert abs(line.metrics["system/rank_memory_bytes"] - mine) < 0.2 * mine
    assert abs(line.metrics["system/disk_free_bytes"] - psutil.disk_usage(str(tmp_path)).free) < 1e9

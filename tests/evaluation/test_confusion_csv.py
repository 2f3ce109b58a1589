import csv

import numpy as np

from pipeline.evaluation import plots


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_row_per_sample_with_class_names(predictions, tmp_path):
    table = predictions(np.eye(3, dtype=int) * 255, np.array([0, 1, 0]))
    plots.write_confusion(tmp_path / "c.csv", table, ["a,b", 'say "x"', "é\n"])
    assert rows_of(tmp_path / "c.csv") == [["actual", "predicted"], ["a,b", "a,b"], ['say "x"'] * 2, ["a,b", "é\n"]]


def test_names_that_a_spreadsheet_would_run_are_inert(predictions, tmp_path):
    table = predictions(np.eye(2, dtype=int) * 255, np.array([0, 1]))
    plots.write_confusion(tmp_path / "c.csv", table, ["=cmd()", "@x"])
    assert rows_of(tmp_path / "c.csv")[1:] == [["'=cmd()"] * 2, ["'@x"] * 2]


def test_a_large_split_is_thinned_evenly(predictions, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MAX_ROWS", 10)
    labels_N = np.arange(25) % 5
    table = predictions(np.eye(5, dtype=int)[labels_N] * 255, labels_N)
    plots.write_confusion(tmp_path / "c.csv", table, list("abcde"))
    assert [row[0] for row in rows_of(tmp_path / "c.csv")[1:]] == list("adbecadbe")

"""The spool: no half line is read, no committed line lost, nothing of a dropped tail survives."""

import json
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.tracking import spool
from pipeline.tracking.spool import Line, Position, Spool, read, truncate_after

BEGINNING, ALL = Position(), 10**9


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def fill(path, steps):
    writer = Spool(path)
    for step in steps:
        writer.append(step, {"train/loss": step / 8})
    writer.close()


def steps_of(lines):
    return [line.step for line in lines]


def read_all(path, committed_step=ALL):
    lines, position = [], BEGINNING
    while True:
        more, after = read(path, position, committed_step)
        if after == position:
            return lines, position
        lines, position = lines + more, after


def test_what_is_appended_is_read(path):
    before = time.time()
    writer = Spool(path)
    writer.append(3, {"val/top1": 0.5, "lr": 1}, epoch=1)
    writer.append(4, {"val/top1": float("nan")})
    [first, second], _ = read(path, BEGINNING, ALL)
    assert first == Line(3, first.time_seconds, {"val/top1": 0.5, "lr": 1.0}, 1)
    assert before <= first.time_seconds <= second.time_seconds <= time.time()
    assert second.metrics["val/top1"] != second.metrics["val/top1"]


def test_a_line_is_one_write(path, monkeypatch):
    writer, written, write = Spool(path), [], spool.os.write
    monkeypatch.setattr(spool.os, "write", lambda descriptor, data: written.append(data) or write(descriptor, data))
    writer.append(1, {"a": 1.0})
    assert len(written) == 1
    assert written[0].endswith(b"\n")


def test_no_file_is_no_line(path):
    assert read(path, BEGINNING, ALL) == ([], BEGINNING)


def test_reading_stops_at_the_committed_step_and_goes_on_later(path):
    fill(path, [1, 2, 2, 3])
    lines, position = read(path, BEGINNING, 2)
    assert steps_of(lines) == [1, 2, 2]
    assert read(path, position, 2) == ([], position)
    fill(path, [4])
    assert steps_of(read(path, position, ALL)[0]) == [3, 4]


def test_a_position_reads_on_over_many_chunks(path, monkeypatch):
    fill(path, range(200))
    monkeypatch.setattr(spool, "CHUNK_BYTES", 37)  # less than a line
    assert steps_of(read_all(path)[0]) == list(range(200))


@given(cut=st.integers(min_value=0, max_value=600))
def test_a_file_cut_anywhere_gives_whole_lines_and_can_be_continued(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("spool") / "metrics.jsonl"
    fill(path, range(6))
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    whole = max(0, content[:cut].count(b"\n") - 1)
    lines, position = read_all(path)
    assert steps_of(lines) == list(range(whole))
    fill(path, range(whole, 8))
    assert steps_of(read_all(path)[0]) == list(range(8))
    assert steps_of(read(path, position, ALL)[0]) == list(range(whole, 8))


def test_a_line_of_rubbish_costs_itself_only(path):
    fill(path, [1])
    with path.open("ab") as file:
        file.write(b"\x00\x00\xff\n[1]\n")
    fill(path, [2])
    assert steps_of(read_all(path)[0]) == [1, 2]


def test_a_file_of_rubbish_is_started_anew(path):
    path.parent.mkdir()
    path.write_bytes(b"\x00" * 100 + b"\n")
    assert read(path, BEGINNING, ALL) == ([], BEGINNING)
    fill(path, [1])
    assert steps_of(read_all(path)[0]) == [1]


def test_truncation_drops_later_steps_and_half_lines_only(path):
    fill(path, [1, 2, 3, 4])
    with path.open("ab") as file:
        file.write(b'{"step": 5')
    truncate_after(path, 2)
    assert steps_of(read_all(path)[0]) == [1, 2]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_truncation_without_later_steps_leaves_the_file_and_its_positions(path):
    truncate_after(path, 5)
    fill(path, [1, 2])
    _, position = read_all(path)
    truncate_after(path, 2)
    fill(path, [3])
    assert steps_of(read(path, position, ALL)[0]) == [3]


def test_a_position_from_before_a_truncation_starts_again(path):
    fill(path, range(10))
    _, position = read_all(path)
    truncate_after(path, 4)
    fill(path, range(5, 30))
    assert steps_of(read(path, position, ALL)[0]) == list(range(30))


def test_truncation_killed_before_its_rename_leaves_the_old_file(path, monkeypatch):
    fill(path, [1, 2])
    content = path.read_bytes()

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(spool.os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        truncate_after(path, 1)
    assert path.read_bytes() == content


def test_the_file_is_json_lines(path):
    fill(path, [7])
    header, line = path.read_text().splitlines()
    assert set(json.loads(header)) == {"generation"}
    assert json.loads(line)["metrics"] == {"train/loss": 0.875}

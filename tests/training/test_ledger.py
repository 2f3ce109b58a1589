import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ArtifactError, StorageError
from pipeline.training import ledger
from pipeline.training.ledger import Ledger, samples_digest


def write(folder, attempt, rank, steps, with_keys=True):
    book = Ledger(folder, attempt, rank, with_keys)
    for step, keys, loss in steps:
        book.record(step, np.array(keys, np.uint64), torch.tensor(loss))
    book.close()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30), st.integers(0, 30))
def test_digests_of_parts_add_up_in_any_order(keys, cut):
    keys = np.array(keys, np.uint64)
    parts = samples_digest(keys[::-1][:cut]) + samples_digest(keys[::-1][cut:])
    assert parts % 2**64 == samples_digest(keys)


def test_digests_tell_multisets_apart():
    sets = [[1, 2], [1, 3], [1, 1], [3], [0, 3], [], [0]]
    assert len({samples_digest(np.array(keys, np.uint64)) for keys in sets}) == len(sets)


def test_ranks_are_merged(tmp_path):
    write(tmp_path, 1, 0, [(0, [1, 2], 0.5), (1, [3, 4], 0.25)])
    write(tmp_path, 1, 1, [(0, [5, 6], 1.5), (1, [7, 8], 0.75)])
    first, second = ledger.read(tmp_path)
    assert (first.step, first.num_samples, first.loss, first.keys) == (0, 4, 1.0, (1, 2, 5, 6))
    assert (second.step, second.loss) == (1, 0.5)
    assert first.samples_digest == samples_digest(np.array([6, 5, 2, 1], np.uint64))


def test_a_later_attempt_holds_from_where_it_began(tmp_path):
    write(tmp_path, 1, 0, [(step, [step], 1.0) for step in range(6)])
    write(tmp_path, 2, 0, [(step, [step], 2.0) for step in range(4, 8)])
    entries = ledger.read(tmp_path)
    assert [(entry.step, entry.loss) for entry in entries] == [(s, 1.0 if s < 4 else 2.0) for s in range(8)]
    assert ledger.next_attempt(tmp_path) == 3


def test_another_world_size_after_a_restart(tmp_path):
    for rank in (0, 1):
        write(tmp_path, 1, rank, [(step, [2 * step + rank], 1.0) for step in range(4)])
    write(tmp_path, 2, 0, [(step, [2 * step, 2 * step + 1], 1.0) for step in range(2, 4)])
    assert [entry.keys for entry in ledger.read(tmp_path)] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_keys_are_left_out_unless_asked_for(tmp_path):
    write(tmp_path, 1, 0, [(0, [1], 0.5)], with_keys=False)
    assert ledger.read(tmp_path)[0].keys is None
    assert "keys" not in (tmp_path / "attempt-0001-rank-00000.jsonl").read_text()


def test_half_a_last_line_is_no_step_and_a_broken_line_is_an_error(tmp_path):
    write(tmp_path, 1, 0, [(0, [1], 0.5), (1, [2], 0.5)])
    path = tmp_path / "attempt-0001-rank-00000.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-10])
    assert [entry.step for entry in ledger.read(tmp_path)] == [0]
    path.write_text("garbage\n" + whole)
    with pytest.raises(ArtifactError, match="holds a line that is not whole"):
        ledger.read(tmp_path)


def test_nothing_is_written_before_a_flush(tmp_path):
    book = Ledger(tmp_path, 1, 0, with_keys=False)
    book.record(0, np.array([1], np.uint64), torch.tensor(0.5))
    assert ledger.read(tmp_path) == []
    book.flush()
    assert len(ledger.read(tmp_path)) == 1
    book.close()


def test_what_was_flushed_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").read_bytes()))
    book = Ledger(tmp_path, 1, 0, with_keys=False)
    for step in range(2):
        book.record(step, np.array([step], np.uint64), torch.tensor(0.5))
        book.flush()
        assert len(synced) == step + 1
        assert synced[step].count(b"\n") == step + 1
    book.close()
    assert len(synced) == 2, "nothing was pending"


def test_a_disk_that_does_not_take_it_is_named_and_the_end_says_nothing_else(tmp_path, monkeypatch):
    def refuse(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    book = Ledger(tmp_path, 1, 0, with_keys=False)
    book.record(0, np.array([0], np.uint64), torch.tensor(0.5))
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StorageError, match=r"attempt-0001-rank-00000\.jsonl cannot be written \(No space left .* to go"
    ):
        book.flush()
    book.close()
    assert len(ledger.read(tmp_path)) == 1, "no line comes twice"

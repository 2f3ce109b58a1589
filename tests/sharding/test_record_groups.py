"""Groups as one number a record, and the facts of a record: what is asked of them without holding all records."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_folders import scanned, two_classes

from pipeline.sharding import alike
from pipeline.sharding.alike import near_pairs
from pipeline.sharding.groups import alone, group_equal, grouped_rows, groups_of
from pipeline.sharding.records import FactsFile

CONTENTS = st.lists(st.integers(0, 15), max_size=40)


@given(CONTENTS, st.integers(0, 3))
def test_equal_digests_are_a_group_even_where_other_digests_begin_alike(contents, bits):
    digests = np.array([list(hashlib.sha256(bytes([each])).digest()) for each in contents], np.uint8).reshape(-1, 32)
    prefixes = np.array([each & bits for each in contents], np.uint64)  # equal for equal digests, and for others
    asked = []

    def digests_of(rows):
        asked.extend(rows.tolist())
        return digests[rows]

    assert group_equal(prefixes, digests_of).tolist() == [contents.index(each) for each in contents]
    assert {row for row in range(len(contents)) if prefixes.tolist().count(prefixes[row]) == 1}.isdisjoint(asked)


@given(CONTENTS, st.data())
def test_groups_are_listed_by_their_first_meant_row(contents, data):
    is_meant = np.array(data.draw(st.lists(st.booleans(), min_size=len(contents), max_size=len(contents))), bool)
    leaders = np.array([contents.index(each) for each in contents], np.int32)
    expected = {}
    for row in np.flatnonzero(is_meant).tolist():
        expected.setdefault(contents[row], []).append(row)
    found = [group.tolist() for group in groups_of(leaders, is_meant)]
    assert found == [rows for rows in expected.values() if len(rows) > 1]
    assert grouped_rows(leaders).tolist() == [row for row, each in enumerate(contents) if contents.count(each) > 1]


def test_nobody_is_in_a_group():
    assert groups_of(alone(3), np.ones(3, bool)) == []
    assert groups_of(alone(0), np.ones(0, bool)) == []


@pytest.mark.parametrize("max_bits", [0, 3, 8])
def test_hashes_that_are_sorted_in_parts_have_the_same_pairs(monkeypatch, max_bits):
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 300, dtype=np.uint64)
    for _ in range(max_bits):
        hashes[200:] ^= np.uint64(1) << random.integers(0, 64, 100).astype(np.uint64)
    hashes[200:250] = hashes[:50] ^ np.uint64(2**max_bits - 1)
    hashes[250:260] = hashes[:10]

    def pairs():
        found = near_pairs(hashes.copy(), max_bits)
        return {pair for a, b in found for pair in zip(a.tolist(), b.tolist(), strict=True)}

    whole = pairs()
    monkeypatch.setattr(alike, "HASHES_AT_ONCE", 50)
    assert pairs() == whole
    assert len(whole) >= 50


def test_facts_come_back_for_any_rows(tmp_path):
    source = two_classes(tmp_path / "source", 5)
    (source / "cat" / "b\\s \udcff\n.jpg").write_bytes(b"")
    manifest = scanned(source, tmp_path / "manifest")
    facts = FactsFile(tmp_path)
    facts.create(manifest)
    paths = list(manifest.values("path"))
    rows = np.array([10, 0, 3, 3])
    assert [each.path for each in facts.rows(rows)] == [paths[row] for row in rows]
    assert {(each.group, json.dumps(json.loads(each.metadata))) for each in facts.rows(rows)} == {(None, "{}")}
    facts.create(manifest)  # made again, after a kill say, it is the same
    assert [each.path for each in facts.rows(np.arange(11))] == paths

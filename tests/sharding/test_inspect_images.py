"""The first pass: what is seen of each image, and where its encoded bytes wait."""

import hashlib

import numpy as np
import pytest
from image_folders import BY_FOLDERS, build, fill, jpeg, two_classes

from pipeline.errors import SourceError
from pipeline.sharding import build as build_module
from pipeline.sharding.build import ShardForm, SplitRule
from pipeline.sharding.encode import encode
from pipeline.sharding.inspect import LOOK_DTYPE, RECORDS_PER_PIECE, Looks, Piece, inspect_piece, read_spooled

NAMES = {"small.jpg": jpeg(1, 16, 20), "large.jpg": jpeg(2, 60, 90), "text.jpg": b"text", "large2.jpg": jpeg(3, 90, 70)}


@pytest.fixture
def spool(tmp_path):
    """Of a piece that is the second of its set."""
    fill(tmp_path / "images", NAMES)
    (tmp_path / "spool").mkdir()
    Looks(tmp_path / "spool", RECORDS_PER_PIECE + len(NAMES)).create()
    return tmp_path / "spool"


def test_a_piece_leaves_a_look_of_each_image_and_its_encoded_bytes(spool):
    done = []
    is_measured = [True, True, True, False]
    piece = Piece(spool, RECORDS_PER_PIECE, spool.parent / "images", list(NAMES), is_measured, 32, 90)
    inspected = inspect_piece(piece, done.append)
    assert [(row, reject.path, reject.reason) for row, reject in inspected.rejects] == [
        (RECORDS_PER_PIECE + 2, "text.jpg", "not_an_image")
    ]
    assert sum(done) == len(NAMES)
    all_looks = Looks(spool, RECORDS_PER_PIECE + len(NAMES))
    all_looks.gather(inspected)
    rows = np.array([RECORDS_PER_PIECE + position for position in (3, 1, 0)])
    for row, look in zip(rows.tolist(), all_looks.rows(rows), strict=True):
        data = list(NAMES.values())[row - RECORDS_PER_PIECE]
        encoded = encode(data, 32, 90, is_measured[row - RECORDS_PER_PIECE])
        assert look["sha256"].tobytes() == hashlib.sha256(data).digest()
        assert (look["height"], look["width"]) == (encoded.source_height, encoded.source_width)
        assert (look["num_pixels"], tuple(look["values"]), tuple(look["squares"])) == encoded.sums
        assert bool(look["num_pixels"]) == is_measured[row - RECORDS_PER_PIECE]
        assert look["likeness"] == encoded.likeness
        assert look["kind"] == b"JPEG YCbCr"
        assert read_spooled(spool, row, look) == (b"" if encoded.data is data else encoded.data)
    assert not all_looks.rows(np.array([0, RECORDS_PER_PIECE + 2])).tobytes().strip(b"\0")
    whole = all_looks.rows(np.arange(RECORDS_PER_PIECE + len(NAMES)))
    for name in LOOK_DTYPE.names:
        np.testing.assert_array_equal(all_looks.column(name), whole[name])
    np.testing.assert_array_equal(all_looks.column("likeness", "hash"), whole["likeness"]["hash"])


def test_an_image_that_keeps_its_bytes_is_not_copied_into_the_spool(spool):
    inspect_piece(Piece(spool, 0, spool.parent / "images", ["small.jpg"], [True], 32, 90), lambda count: None)
    assert [path.stat().st_size for path in spool.glob("*.piece")] == [LOOK_DTYPE.itemsize]


@pytest.mark.parametrize("short_side_px", [None, 8])
def test_nothing_but_the_set_is_left(tmp_path, short_side_px):
    build(two_classes(tmp_path / "source"), tmp_path / "shards", form=ShardForm(short_side_px, 90, 8))
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == sorted(
        ["_info.json", "audit_pictures.json", "index.json", "train", "validation", "test"]
    )


def test_an_image_that_vanishes_between_the_passes_stops_the_stage(tmp_path, monkeypatch):
    source = two_classes(tmp_path / "source", 5)
    real = build_module.plan_shards

    def plan_and_remove(*args):
        (source / "dog/002.jpg").unlink()
        return real(*args)

    monkeypatch.setattr(build_module, "plan_shards", plan_and_remove)
    with pytest.raises(SourceError, match=r"dog/002.jpg changed while it was being sharded; let the source rest"):
        build(source, tmp_path / "shards", rule=SplitRule(0, 0, 0), columns=BY_FOLDERS)
    assert not list((tmp_path / "shards").rglob("*.json"))

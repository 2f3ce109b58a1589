"""Decoded images on the disk: the same pixels as without them, whatever became of the files."""

import contextlib

import numpy as np
import psutil
import pytest
import shard_sets
import torch
from small_disks import small_disk

from pipeline.imaging import crops
from pipeline.imaging.region import Region
from pipeline.loading import encoded
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import training_batches
from pipeline.loading.decoded import FOLDER, DecodedCache
from pipeline.loading.kept import open_decoded
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

NUM_SAMPLES, SIDE_PX, INPUT_PX = 24, 64, 16
IMAGE_BYTES = 3 * SIDE_PX**2
ALL_BYTES = NUM_SAMPLES * 2 * IMAGE_BYTES
"""Room for every image at every scale that is asked for."""

AUGMENTATION = Augmentation((0.05, 1.0), (0.75, 4 / 3), True, False, 0.2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the decoded images lie, whatever their key is."""
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / FOLDER


@pytest.fixture
def reader(tmp_path):
    with contextlib.closing(SplitReader(written(tmp_path / "shards"), "train")) as reader:
        yield reader


def written(folder, first_key=0):
    return shard_sets.write(folder, {"train": [13, 11]}, side_px=SIDE_PX, first_key=first_key)


def epoch(reader, number, decoded=None, num_workers=0):
    steps = order(reader.shard_sizes, seed=0, epoch=number, digest="d", global_batch_size=8)
    made = training_batches(
        reader, steps, AUGMENTATION, input_px=INPUT_PX, rank=0, world_size=1, first_step=0, num_workers=num_workers,
        decoded=decoded,
    )  # fmt: skip
    return [batch.images_BCHW.clone() for batch in made]


def assert_same_pixels(reader, decoded, epochs, num_workers=0):
    for number in epochs:
        pairs = zip(epoch(reader, number, decoded, num_workers), epoch(reader, number), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture
def decodes(monkeypatch):
    """The regions that are decoded from here on, natively or not."""
    seen = []
    decode_region, cut_jpegs = encoded.decode_region, crops.cut_jpegs

    def counting(data, header, region, scratch):
        seen.append(region)
        return decode_region(data, header, region, scratch)

    def counting_native(crops_N, *arguments):
        names = ["top", "left", "rows", "columns", "shrink"]
        seconds = cut_jpegs(crops_N, *arguments)
        seen.extend(Region(*crop) for crop in crops_N[names][crops_N["is_done"] != 0].tolist())
        return seconds

    monkeypatch.setattr(encoded, "decode_region", counting)
    monkeypatch.setattr(crops, "cut_jpegs", counting_native)
    return seen


def warm(reader, decoded):
    """Fills the cache by some epochs; the last of them asks for every image at its scales again."""
    for number in (*range(12), 0):
        epoch(reader, number, decoded)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_the_pixels_are_those_of_decoding(folder, reader, num_workers):
    with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
        assert_same_pixels(reader, decoded, range(6), num_workers)


def test_what_was_decoded_is_decoded_no_more_and_survives_the_process(folder, reader, decodes):
    with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
        warm(reader, decoded)
        assert len({region.shrink for region in decodes}) > 1
        del decodes[:]
        warmed = epoch(reader, 0, decoded)
        assert decodes == []
    with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
        again = epoch(reader, 0, decoded)
    assert decodes == []
    assert all(torch.equal(one, other) for one, other in zip(again, warmed, strict=True))


def test_ranks_share_it(folder, reader, decodes):
    with open_decoded(reader, ALL_BYTES, pytest.fail) as one, open_decoded(reader, ALL_BYTES, pytest.fail) as other:
        epoch(reader, 0, one)
        num_decoded = len(decodes)
        assert_same_pixels(reader, other, [0])
        del decodes[num_decoded:]
        epoch(reader, 0, other)
        assert len(decodes) == num_decoded
        for number in range(1, 4):  # each goes on where the other took room
            assert_same_pixels(reader, one, [number])
            assert_same_pixels(reader, other, [number])


@pytest.mark.parametrize(
    "damage", ["pixels", "one pixel", "cut pixels", "table", "seal", "header", "taken", "cut table", "gone"]
)
def test_damage_is_found_by_checksum_and_costs_decoding_again(folder, reader, decodes, damage):
    with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
        warm(reader, decoded)
    (pixels,), (table,) = folder.glob("*/pixels"), folder.glob("*/table")
    changed = pixels if "pixel" in damage else table
    content = bytearray(changed.read_bytes())
    if damage == "one pixel":
        content[0] ^= 1
    elif damage == "seal":
        content[64 + 31 :: 32] = b"\x55" * len(content[64 + 31 :: 32])
    elif damage in ("header", "taken"):
        content[{"header": 0, "taken": 17}[damage]] ^= 1
    else:
        content[64:] = np.random.default_rng(0).bytes(len(content) - 64)
    changed.write_bytes(content[: len(content) // 2] if "cut" in damage else content)
    if damage == "gone":
        changed.unlink()
    del decodes[:]
    with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
        served = epoch(reader, 0, decoded)
        assert decodes
        del decodes[:]
    assert all(torch.equal(one, other) for one, other in zip(served, epoch(reader, 0), strict=True))


def test_an_image_that_was_damaged_is_kept_anew(folder, reader, decodes):
    with open_decoded(reader, 2 * ALL_BYTES, pytest.fail) as decoded:
        epoch(reader, 0, decoded)
    (pixels,) = folder.glob("*/pixels")
    content = bytearray(pixels.read_bytes())
    content[0] ^= 1
    pixels.write_bytes(content)
    del decodes[:]
    for expected in (1, 0):
        with open_decoded(reader, 2 * ALL_BYTES, pytest.fail) as decoded:
            epoch(reader, 0, decoded)
        assert len(decodes) == expected
        del decodes[:]


@pytest.mark.parametrize("limit_bytes", [1, IMAGE_BYTES, 5 * IMAGE_BYTES + 7])
def test_what_does_not_fit_is_decoded_and_the_limit_holds(folder, reader, decodes, limit_bytes):
    with open_decoded(reader, limit_bytes, pytest.fail) as decoded:
        warm(reader, decoded)
        assert_same_pixels(reader, decoded, range(3))
        assert not decoded.grows
        (pixels,) = folder.glob("*/pixels")
        assert pixels.stat().st_size == limit_bytes


def test_none_is_wanted_by_default(folder, reader):
    with open_decoded(reader, 0, pytest.fail) as decoded:
        assert decoded is None
    assert not folder.exists()


def test_another_set_removes_it_unless_it_is_in_use(folder, reader, tmp_path):
    other_index = written(tmp_path / "other", first_key=100)
    with contextlib.closing(SplitReader(other_index, "train")) as other:
        with open_decoded(reader, ALL_BYTES, pytest.fail) as decoded:
            epoch(reader, 0, decoded)
            with open_decoded(other, ALL_BYTES, pytest.fail):
                assert len(list(folder.glob("*/pixels"))) == 2
                assert_same_pixels(reader, decoded, [0])
        with open_decoded(other, ALL_BYTES, pytest.fail):
            assert len(list(folder.glob("*/pixels"))) == 1


def test_parts_of_a_set_have_caches_of_their_own(folder, reader):
    with contextlib.closing(SplitReader(reader.index_path, "train", fraction=0.5)) as part:
        assert part.digest != reader.digest
        with open_decoded(reader, ALL_BYTES, pytest.fail) as whole_cache:
            epoch(reader, 0, whole_cache)
            with open_decoded(part, ALL_BYTES, pytest.fail) as decoded:
                assert_same_pixels(part, decoded, range(2))


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """A cache folder on a disk of its own with room for a few images."""
    with small_disk(tmp_path / "small", "128k") as folder:
        monkeypatch.setenv("CONVOY_CACHE", str(folder))
        yield folder


def test_on_a_full_disk_training_goes_on_without_it_and_says_so_once(small_cache, reader):
    said = []
    with open_decoded(reader, ALL_BYTES, said.append) as decoded:
        assert_same_pixels(reader, decoded, range(4), num_workers=2)
        assert not decoded.grows
    (text,) = said
    assert text == (
        "The cache of decoded images takes no more (No space left on device); training goes on and decodes what is "
        "not in it. Make room, or lower loading.decoded_cache_bytes."
    )


def test_a_disk_without_room_for_its_table_gets_none(small_cache, reader):
    (small_cache / "ballast").write_bytes(bytes(128 * 1024))
    said = []
    with open_decoded(reader, ALL_BYTES, said.append) as decoded:
        assert decoded is None
    assert "No space left on device" in said[0]
    assert len(said) == 1


def test_images_of_other_channels_are_kept_with_their_bits(tmp_path):
    image_HWC = np.random.default_rng(0).integers(0, 2**16, (20, 30, 5), np.uint16)
    cache = DecodedCache(tmp_path, "digest", 3, 5, "uint16", 10**6, pytest.fail)
    with contextlib.closing(cache):
        cache.keep(1, (20, 30), 1, False, image_HWC)
        (absent, offsets), sizes, can_shrink = cache.look_up(np.array([2, 1]))
        assert absent.tolist() == [-1] * 4
        assert sizes[1].tolist() == [20, 30]
        assert can_shrink.tolist() == [False, False]
        region = Region(3, 4, 10, 20)
        np.testing.assert_array_equal(cache.cut(offsets[0], (20, 30), region), region.of(image_HWC))


def test_nothing_is_written_once_it_is_closed(tmp_path):
    image_HWC = np.ones((20, 30, 3), np.uint8)
    cache = DecodedCache(tmp_path, "digest", 3, 3, "uint8", 10**6, pytest.fail)
    cache.keep(0, (20, 30), 1, False, image_HWC)
    cache.close()
    with (tmp_path / "another").open("wb"), (tmp_path / "third").open("wb"):  # they get the descriptors
        cache.keep(1, (20, 30), 1, False, image_HWC)
    assert (tmp_path / "another").stat().st_size == (tmp_path / "third").stat().st_size == 0
    offsets, _, _ = cache.look_up(np.array([0, 1]))
    assert offsets[1].tolist() == [-1] * 4
    np.testing.assert_array_equal(cache.cut(offsets[0][0], (20, 30), Region(0, 0, 20, 30)), image_HWC)


def test_a_long_run_with_it_grows_neither_memory_nor_descriptors(folder, reader):
    process, seen = psutil.Process(), []
    with open_decoded(reader, ALL_BYTES // 3, pytest.fail) as decoded:  # some are served, some decoded
        for number in range(345):
            epoch(reader, number, decoded, num_workers=2)
            memory = process.memory_info()
            seen.append((memory.rss - memory.shared, process.num_fds()))  # the file's own pages are the system's
    assert 345 * 3 > 1000
    (early_bytes, early_files), (late_bytes, late_files) = seen[60], seen[-1]
    assert late_files == early_files
    assert late_bytes - early_bytes < 8 * 1024**2

"""Likeness: what counts as the same picture, what does not, and a search that is complete without being quadratic."""

import itertools
import time
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import as_jpeg, scene

from pipeline.imaging.decode import decode
from pipeline.sharding import alike
from pipeline.sharding.alike import group_alike, near_pairs
from pipeline.sharding.likeness import LIKENESS_DTYPE, _sampled_grey, likeness

COPIES = {
    "as it is": lambda image: image,
    "half the size": lambda image: cv2.resize(image, (100, 75), interpolation=cv2.INTER_AREA),
    "twice the size": lambda image: cv2.resize(image, (400, 300)),
    "another shape by a little": lambda image: cv2.resize(image, (190, 150), interpolation=cv2.INTER_AREA),
    "low quality": lambda image: decode(as_jpeg(image, 40)),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=20),
    "cropped by 2 %": lambda image: image[2:-1, 2:-2],
    "cropped at one corner": lambda image: image[3:, 4:],
}


def likenesses(images) -> np.ndarray:
    found = np.empty(len(images), LIKENESS_DTYPE)
    for row, image in enumerate(images):
        found[row] = likeness(np.ascontiguousarray(image))
    return found


def groups(images, max_bits: int = 6) -> list[int]:
    found = likenesses(images)
    parts = np.array_split(found, 3)
    return group_alike(parts, np.ones(len(found), bool), found["thumb"].__getitem__, max_bits).tolist()


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_alike_and_nothing_else_is(name):
    originals = [scene(content) for content in range(40)]
    found = groups([*originals, *map(COPIES[name], originals)])
    assert found[:40] == list(range(40))
    assert np.mean([a == b for a, b in zip(found[:40], found[40:], strict=True)]) >= 0.95


def test_turned_and_mirrored_pictures_are_others():
    image = scene(1)
    assert groups([image, image[::-1], image[:, ::-1], np.rot90(image)]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [name for name in COPIES if name != "low quality"])
@pytest.mark.parametrize("num_channels", [2, 5])
def test_a_copy_of_sixteen_bits_of_which_a_few_are_used_is_alike(name, num_channels):
    originals = [np.stack([scene(content)[:, :, 1]] * num_channels, axis=2) for content in range(20)]
    copies = [COPIES[name](image[:, :, :2]) for image in originals]  # OpenCV takes more than four channels not always
    copies = [np.repeat(copy[:, :, :1], num_channels, axis=2) for copy in copies]
    found = groups([image.astype(np.uint16) * 5 for image in [*originals, *copies]])
    assert found[:20] == list(range(20))
    assert np.mean([a == b for a, b in zip(found[:20], found[20:], strict=True)]) >= 0.95


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_grey_of_other_channels_is_their_mean(dtype):
    image_HWC = np.random.default_rng(0).integers(0, 256, (60, 60, 5), np.uint8)
    grey_HW = np.floor(image_HWC.mean(axis=2) + 0.5).astype(np.uint8)
    of_channels, of_grey = likeness(image_HWC.astype(dtype)), likeness(np.stack([grey_HW] * 3, axis=2))
    assert of_channels["hash"] == of_grey["hash"]
    if dtype == "uint8":
        assert (of_channels["thumb"] == of_grey["thumb"]).all()
    else:
        assert (of_channels["thumb"].min(), of_channels["thumb"].max()) == (0, 255)


def test_flat_images_of_sixteen_bits_are_like_nothing():
    assert groups([np.full((30, 30, 4), level, np.uint16) for level in (0, 700, 700, 65535)]) == [0, 1, 2, 3]


def test_flat_images_are_like_nothing():
    assert groups([np.full((30, 30, 3), level, np.uint8) for level in (0, 0, 128, 255)]) == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (31, 33), (5, 1000)])
def test_every_size_has_a_likeness(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = likeness(image)
    assert abs(float(found["thumb"].mean()) - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).mean()) < 32
    assert found["hash"] == likeness(image.copy())["hash"]


@pytest.mark.parametrize("shape", [(4, 65_500, 3), (65_500, 4, 3), (4, 30_000_000, 2), (255, 400_000, 1)])
def test_long_thin_images_take_little_memory(shape):
    image = np.zeros(shape, np.uint8)
    tracemalloc.start()
    try:
        likeness(image)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_tall", [False, True])
@pytest.mark.parametrize("short_px", [3, 20, 150])
def test_a_long_thin_image_is_like_a_shorter_copy(short_px, is_tall):
    copies = [cv2.resize(scene(1), (long_px, short_px)) for long_px in (60_000, 3_000)]
    long, short = likenesses([copy.transpose(1, 0, 2) if is_tall else copy for copy in copies])
    assert np.abs(long["thumb"].astype(int) - short["thumb"]).max() <= 2
    assert (int(long["hash"]) ^ int(short["hash"])).bit_count() <= 2


@pytest.mark.parametrize(
    ("shape", "sampled"),
    [
        ((40, 60), (160, 240)),
        ((150, 4800), (150, 4800)),
        ((300, 16_000), (150, 8000)),
        ((4000, 3000), (174, 131)),
        ((1, 250), (32, 8000)),
        ((5, 300), (130, 7800)),
    ],
)
def test_both_sides_of_an_ordinary_image_are_sampled_alike(shape, sampled):
    assert _sampled_grey(np.zeros((*shape, 3), np.uint8)).shape == sampled
    assert _sampled_grey(np.zeros((*shape[::-1], 3), np.uint8)).shape == sampled[::-1]


def test_golden_bits_that_every_machine_comes_to():
    ramp_HW = (np.add.outer(np.arange(40) ** 2, np.arange(60) * 3) % 251).astype(np.uint8)
    found = likeness(np.repeat(ramp_HW[:, :, None], 3, axis=2))
    assert hex(int(found["hash"])) == "0xbbce3654f40cc0f0"
    assert found["thumb"][:4].tolist() == [5, 17, 28, 39]


def with_contrast(hashes: np.ndarray) -> np.ndarray:
    found = np.zeros(len(hashes), LIKENESS_DTYPE)
    found["hash"], found["contrast"] = hashes, 99
    return found


HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=30)


@given(
    HASHES,
    st.lists(st.tuples(st.integers(0, 29), st.lists(st.integers(0, 63), max_size=9)), max_size=30),
    st.integers(0, 8),
)
def test_every_pair_within_the_distance_is_found_and_no_other(hashes, changes, max_bits):
    for row, bits in changes:
        if row < len(hashes):
            changed = hashes[row]
            for bit in bits:
                changed ^= 1 << bit
            hashes.append(changed)
    near = {(a, b) for a in range(len(hashes)) for b in range(a) if (hashes[a] ^ hashes[b]).bit_count() <= max_bits}
    found, same = set(), np.arange(len(hashes))
    for rows_a, rows_b in near_pairs(np.array(hashes, np.uint64), max_bits):
        for a, b in zip(rows_a.tolist(), rows_b.tolist(), strict=True):
            found.add((max(a, b), min(a, b)))
            if hashes[a] == hashes[b]:
                same[b] = a
    # Of equal hashes one speaks for all.
    spoken = {(max(same[a], same[b]), min(same[a], same[b])) for a, b in near if hashes[a] != hashes[b]}
    assert {pair for pair in found if hashes[pair[0]] != hashes[pair[1]]} == spoken
    assert all(hashes[a] == hashes[same[a]] for a in range(len(hashes)))
    assert {same[a] for a in range(len(hashes))} == {hashes.index(value) for value in hashes}


@pytest.mark.parametrize("max_bits", range(9))
def test_bits_that_differ_in_any_blocks_at_once_are_met(max_bits):
    edges = np.linspace(0, 64, max_bits + alike.AGREEING + 1).astype(int).tolist()
    original = np.random.default_rng(max_bits).integers(0, 2**64, dtype=np.uint64)
    for changed_blocks in itertools.combinations(edges[:-1], max_bits):
        copy = original ^ np.uint64(sum(1 << bit for bit in changed_blocks))
        rows = [pair for pair in near_pairs(np.array([original, copy]), max_bits) if len(pair[0])]
        assert rows, changed_blocks


def test_alike_is_passed_on_and_the_smallest_row_leads():
    thumbs = np.random.default_rng(0).integers(0, 256, (1, 256), dtype=np.uint8).repeat(5, axis=0)
    thumbs[3] = 255 - thumbs[3]  # its hash is near, its thumbnail is not
    hashes = np.array([0b1111, 0b0011, 0b0000, 0b0001, 2**63 - 1], np.uint64)
    assert group_alike([with_contrast(hashes)], np.ones(5, bool), thumbs.__getitem__, 2).tolist() == [0, 0, 0, 3, 4]


def test_the_order_of_the_images_changes_no_group():
    images = [COPIES[name](scene(content)) for content in range(6) for name in ("as it is", "half the size")]
    order = np.random.default_rng(1).permutation(len(images))
    ids, ids_of_shuffled = np.array(groups(images)), np.array(groups([images[i] for i in order]))
    together = ids[:, None] == ids[None, :]
    shuffled = np.empty_like(ids)
    shuffled[order] = ids_of_shuffled
    assert (together == (shuffled[:, None] == shuffled[None, :])).all()


def test_no_image_at_all():
    assert groups([]) == []


def test_the_search_is_not_quadratic():
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, 100_000, dtype=np.uint64)
    copies = hashes[:500] ^ np.uint64(0b111)
    started = time.process_time()
    pairs = [pair for pair in near_pairs(np.concatenate([hashes, copies]), 6) if len(pair[0])]
    assert {(a, b) for rows_a, rows_b in pairs for a, b in np.sort([rows_a, rows_b], axis=0).T.tolist()} == {
        (row, 100_000 + row) for row in range(500)
    }
    assert time.process_time() - started < 20, "all pairs would take minutes"


def test_thousands_of_nearly_equal_hashes_end():
    hashes = np.arange(5000, dtype=np.uint64)
    thumbs = np.random.default_rng(0).integers(0, 256, (1, 256), dtype=np.uint8).repeat(5000, axis=0)
    assert set(group_alike([with_contrast(hashes)], np.ones(5000, bool), thumbs.__getitem__, 6).tolist()) == {0}
    assert len(hashes) > alike.MAX_COMPARED

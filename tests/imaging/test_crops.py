"""Crops by native code: the pixels of decoding, resizing, flips and moves, whatever is asked; none written beyond."""

import io
import subprocess
import sys
import threading

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.imaging import crops, region
from pipeline.imaging.crops import CROP, cut_jpegs, cut_pixels, native
from pipeline.imaging.decode import decode_region
from pipeline.imaging.jpeg import read_jpeg_header
from pipeline.imaging.region import SHRINKS, Native, Region, shrunk_size
from pipeline.imaging.resizing import resize

needs_native = pytest.mark.skipif(not native().is_used, reason=f"no native code: {native().why}")

NOISE_HWC = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
PHOTO = simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:120, :90]), quality=90, colorsubsampling="420")
SIDES = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 160, 224, 256]))


def a_crop(size, wanted, *, place=0, offset=0, num_bytes=0, flips=(False, False), move=(0, 0)):
    """One row, of an image of this size."""
    row = np.zeros(1, CROP)
    names = ("place", "offset", "num_bytes", "height", "width", "flip_horizontal", "flip_vertical", "down", "right")
    for name, value in zip(names, (place, offset, num_bytes, *size, *flips, *move), strict=True):
        row[name] = value
    for name, value in zip(("top", "left", "rows", "columns", "shrink"), wanted, strict=True):
        row[name] = value
    return row


def by_python(part_HWC, side_px, flips, move=(0, 0)):
    resized_HWC = resize(np.ascontiguousarray(part_HWC), side_px, side_px)
    flipped_HWC = resized_HWC[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    borders = [(max(0, by), max(0, -by)) for by in move]
    wide_HWC = np.pad(flipped_HWC, (*borders, (0, 0)), "reflect")
    return wide_HWC[borders[0][1] :, borders[1][1] :][:side_px, :side_px]


def is_its_work(wanted, side_px):
    """Where a side grows, or none shrinks to a half or less."""
    return min(wanted[2:4]) < side_px or max(wanted[2:4]) < 2 * side_px


@st.composite
def a_crop_of_noise(draw):
    height, width = draw(st.integers(1, 400)), draw(st.integers(1, 400))
    shrink = draw(st.sampled_from(SHRINKS))
    new_height, new_width = shrunk_size(height, width, shrink)
    top, left = draw(st.integers(0, new_height - 1)), draw(st.integers(0, new_width - 1))
    rows, columns = draw(st.integers(1, new_height - top)), draw(st.integers(1, new_width - left))
    flips = draw(st.tuples(st.booleans(), st.booleans()))
    move = draw(st.sampled_from([(0, 0), None])) or draw(st.tuples(*[st.integers(-300, 300)] * 2))
    return (height, width), Region(top, left, rows, columns, shrink), flips, move, draw(SIDES)


@needs_native
@settings(max_examples=400)
@given(a_crop_of_noise(), st.integers(0, 50), st.sampled_from([0xFF, 0xC0]))
def test_decoded_pixels_are_cut_and_resized_as_by_opencv(case, offset, mask):
    size, wanted, flips, move, side_px = case
    height, width = shrunk_size(*size, wanted.shrink)
    whole_HWC = NOISE_HWC[:height, :width] & np.uint8(mask)
    memory = np.concatenate([np.zeros(offset, np.uint8), whole_HWC.ravel()])
    out_BHWC = np.full((3, side_px, side_px, 3), 77, np.uint8)
    row = a_crop(size, wanted, place=1, offset=offset, flips=flips, move=move)
    cut_pixels(row, memory, out_BHWC)
    assert (out_BHWC[[0, 2]] == 77).all()
    if not row["is_done"][0]:
        assert not is_its_work(wanted, side_px) or wanted.width > 2 * side_px
        assert (out_BHWC == 77).all()
        return
    assert is_its_work(wanted, side_px)
    np.testing.assert_array_equal(out_BHWC[1], by_python(wanted.of(whole_HWC), side_px, flips, move))


@needs_native
@settings(max_examples=300)
@given(
    st.integers(1, 70),
    st.floats(1.0, 1.999),
    st.floats(1.0, 1.999),
    st.integers(0, 2**32),
    st.sampled_from([0xFF, 0xC0]),
)
def test_what_shrinks_is_smoothed_and_rounded_as_by_opencv(side_px, shrink_y, shrink_x, seed, mask):
    height, width = int(side_px * shrink_y), int(side_px * shrink_x)
    noise_HWC = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8) & np.uint8(mask)
    out_BHWC = np.zeros((1, side_px, side_px, 3), np.uint8)
    row = a_crop((height, width), Region(0, 0, height, width))
    cut_pixels(row, noise_HWC, out_BHWC)
    assert row["is_done"][0]
    np.testing.assert_array_equal(out_BHWC[0], resize(noise_HWC, side_px, side_px))


@needs_native
@settings(max_examples=150)
@given(
    st.integers(1, 200), st.integers(1, 200), st.sampled_from(["444", "422", "420", "440", "Gray"]), st.booleans(),
    st.tuples(st.booleans(), st.booleans()), st.sampled_from([37, 64, 224]), st.data(),
)  # fmt: skip
def test_jpegs_are_cut_as_if_decoded_and_resized(height, width, sampling, is_progressive, flips, side_px, data):
    if is_progressive:
        out = io.BytesIO()
        Image.fromarray(NOISE_HWC[:height, :width]).save(out, "JPEG", progressive=True)
        encoded = out.getvalue()
    else:
        noise_HWC = np.ascontiguousarray(NOISE_HWC[:height, :width])
        encoded = simplejpeg.encode_jpeg(noise_HWC, colorsubsampling=sampling)
    shrink = data.draw(st.sampled_from(SHRINKS)) if min(height, width) >= 16 else 1
    new_height, new_width = shrunk_size(height, width, shrink)
    top, left = data.draw(st.integers(0, new_height - 1)), data.draw(st.integers(0, new_width - 1))
    wanted = Region(top, left, new_height - top, new_width - left, shrink)
    memory = np.frombuffer(b"before" + encoded + b"after", np.uint8)
    row = a_crop((height, width), wanted, offset=6, num_bytes=len(encoded), flips=flips)
    out_BHWC = np.zeros((1, side_px, side_px, 3), np.uint8)
    seconds = cut_jpegs(row, memory, np.empty(500_000, np.uint8), out_BHWC)
    assert row["is_done"][0] == is_its_work(wanted, side_px) or wanted.width > 2 * side_px
    if row["is_done"][0]:
        part_HWC = decode_region(encoded, read_jpeg_header(encoded), wanted)
        np.testing.assert_array_equal(out_BHWC[0], by_python(part_HWC, side_px, flips))
        assert 0 < seconds < 10


@needs_native
@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_are_left_or_decoded_and_nothing_is_written_beyond(data):
    damaged = bytearray(PHOTO)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(2, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(2, len(damaged)))]
    row = a_crop((120, 90), Region(0, 0, 120, 90), place=1, num_bytes=len(damaged))
    scratch, out_BHWC = np.full(60_064, 77, np.uint8), np.full((3, 224, 224, 3), 77, np.uint8)
    cut_jpegs(row, np.frombuffer(damaged, np.uint8), scratch[:-64], out_BHWC)
    assert (scratch[-64:] == 77).all()
    assert (out_BHWC[[0, 2]] == 77).all()
    assert row["is_done"][0] or (out_BHWC == 77).all()


@needs_native
@pytest.mark.parametrize("down", [-(2**31), -64, 63, 2**31 - 1])
@pytest.mark.parametrize("right", [-(2**31), -63, 64, 2**31 - 1])
def test_what_moves_out_of_sight_comes_back_mirrored(down, right):
    pixels_HWC = np.ascontiguousarray(NOISE_HWC[:30, :40])
    out_BHWC = np.full((3, 64, 64, 3), 77, np.uint8)
    row = a_crop((30, 40), Region(0, 0, 30, 40), place=1, move=(down, right))
    cut_pixels(row, pixels_HWC, out_BHWC)
    assert row["is_done"][0]
    assert (out_BHWC[[0, 2]] == 77).all()
    period = 2 * 63  # what is mirrored at both borders repeats itself
    near = [(by + 63) % period - 63 for by in (down, right)]
    np.testing.assert_array_equal(out_BHWC[1], by_python(pixels_HWC, 64, (False, False), near))


@needs_native
@pytest.mark.parametrize(
    "change",
    [{"place": 1}, {"place": -1}, {"offset": -1}, {"offset": 1}, {"offset": 2**62}, {"top": -1}, {"left": -1},
     {"rows": 0}, {"columns": 0}, {"rows": 31}, {"columns": 41}, {"rows": -5}, {"height": 0}, {"height": -7},
     {"width": 2**31 - 1}, {"height": 2**31 - 1, "width": 2**31 - 1}, {"top": 2**31 - 1}, {"shrink": -1}],
)  # fmt: skip
def test_what_is_not_there_is_left(change):
    pixels_HWC = np.ascontiguousarray(NOISE_HWC[:30, :40])
    out_BHWC = np.full((1, 64, 64, 3), 77, np.uint8)
    row = a_crop((30, 40), Region(0, 0, 30, 40))
    cut_pixels(row, pixels_HWC, out_BHWC)
    assert row["is_done"][0]
    out_BHWC[:] = 77
    for name, value in change.items():
        row[name] = value
    cut_pixels(row, pixels_HWC, out_BHWC)
    is_harmless = change == {"shrink": -1}  # no scale: taken for 1
    assert row["is_done"][0] == is_harmless
    assert is_harmless or (out_BHWC == 77).all()


@needs_native
@pytest.mark.parametrize(
    "change", [{"offset": 1}, {"offset": -1}, {"num_bytes": -1}, {"num_bytes": 99}, {"shrink": 3}, {"shrink": 0},
               {"rows": 121}, {"height": 119}, {"place": 7}]
)  # fmt: skip
def test_no_jpeg_is_looked_for_beyond_the_memory_or_at_a_scale_that_is_none(change):
    row = a_crop((120, 90), Region(0, 0, 120, 90), num_bytes=len(PHOTO))
    out_BHWC, scratch = np.zeros((1, 224, 224, 3), np.uint8), np.empty(60_000, np.uint8)
    cut_jpegs(row, np.frombuffer(PHOTO, np.uint8), scratch, out_BHWC)
    assert row["is_done"][0]
    for name, value in change.items():
        row[name] = value
    cut_jpegs(row, np.frombuffer(PHOTO, np.uint8), scratch, out_BHWC)
    assert not row["is_done"][0]


@needs_native
def test_nothing_is_read_beyond_the_last_pixel():
    """In a process of its own, with memory behind the pixels that ends whoever touches it."""
    program = """
import ctypes, mmap
import numpy as np
from pipeline.imaging.crops import CROP, cut_pixels

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 64 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address + 63 * page), page, 0) == 0
readable = np.frombuffer(memory, np.uint8, 63 * page)
for height, width in ((1, 1), (2, 3), (40, 50), (64, 64), (3, 128), (90, 5), (100, 90)):
    crops = np.zeros(1, CROP)
    for name, value in dict(height=height, width=width, shrink=1, rows=height, columns=width).items():
        crops[name] = value
    crops["offset"] = len(readable) - height * width * 3
    for side_px in (1, 64, 65, 224):
        cut_pixels(crops, readable, np.empty((1, side_px, side_px, 3), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_native
def test_rows_that_are_none_are_a_mistake():
    out_BHWC = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="no whole rows"):
        cut_pixels(np.zeros(CROP.itemsize + 1, np.uint8), NOISE_HWC, out_BHWC)
    with pytest.raises(ValueError, match="side_px is out of range"):
        region._crops.cut_pixels(np.zeros(1, CROP), NOISE_HWC, out_BHWC, crops.MAX_SIDE_PX + 1)


def test_what_is_built_agrees():
    """Or the other tests of it would be left out without a word."""
    assert native().is_used or native().why in (region.native().why, "this processor has no AVX2")


@needs_native
@pytest.mark.parametrize("changed", ["cut_pixels", "moves", "CAN_STRETCH", "CROP_BYTES", "region", "built"])
def test_it_is_used_only_where_it_is_known_to_agree(monkeypatch, changed):
    def brighter(rows, memory, out_BHWC):
        cut_pixels(rows, memory, out_BHWC)
        np.minimum(out_BHWC, 254, out=out_BHWC)

    def unmoved(rows, memory, out_BHWC):
        still = rows.copy()
        still["down"] = 0
        cut_pixels(still, memory, out_BHWC)
        rows["is_done"] = still["is_done"]

    def unable():
        return None

    monkeypatch.setattr(crops, "_native", None)
    if changed == "cut_pixels":
        monkeypatch.setattr(crops, "cut_pixels", brighter)
    elif changed == "moves":
        monkeypatch.setattr(crops, "cut_pixels", unmoved)
    elif changed == "CAN_STRETCH":
        unable.CAN_STRETCH, unable.CROP_BYTES = 0, CROP.itemsize
        monkeypatch.setattr(region, "_crops", unable)
    elif changed == "CROP_BYTES":  # of an earlier build, which did not say it
        unable.CAN_STRETCH = 1
        monkeypatch.setattr(region, "_crops", unable)
    else:
        monkeypatch.setattr(region, "_native", Native(False, f"{changed} is not"))
    why = {
        "cut_pixels": "its pixels are not OpenCV's",
        "moves": "its pixels are not OpenCV's",
        "CAN_STRETCH": "this processor has no AVX2",
        "CROP_BYTES": "built from other sources; run `make setup`",
    }
    assert native() == Native(False, why.get(changed, f"{changed} is not"))


@needs_native
def test_the_gil_is_released():
    pixels_HWC = np.ascontiguousarray(NOISE_HWC[:200, :200])
    rows = np.repeat(a_crop((200, 200), Region(0, 0, 200, 200)), 500)
    out_BHWC = np.empty((1, 224, 224, 3), np.uint8)
    seen, begun, interval = [], threading.Event(), sys.getswitchinterval()

    def cut():
        begun.set()
        cut_pixels(rows, pixels_HWC, out_BHWC)
        seen.append("cut")

    thread = threading.Thread(target=cut)
    try:
        sys.setswitchinterval(60.0)  # from here on a thread goes on until it lets go by itself
        thread.start()
        begun.wait()
        seen.append("meanwhile")
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen == ["meanwhile", "cut"]

"""Rectangles of JPEGs: the pixels of the whole decode, from native code and without it."""

import io
import sys
import threading

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging import region as regions
from pipeline.imaging.decode import decode, decode_region
from pipeline.imaging.jpeg import decode_jpeg, read_jpeg_header
from pipeline.imaging.region import MIN_SHRUNK_PX, SHRINKS, Native, Region, decode_jpeg_region, native, shrunk_size

needs_native = pytest.mark.skipif(not native().is_used, reason=f"no native code: {native().why}")

PILLOW_SAMPLINGS = {"444": 0, "422": 1, "420": 2}
NOISE_HWC = np.random.default_rng(0).integers(0, 256, (130, 130, 3), np.uint8)


def encoded(image_HWC: np.ndarray, sampling: str, **options: object) -> bytes:
    """A JPEG; with `options`, Pillow's, where it knows the sampling."""
    if not options or sampling not in PILLOW_SAMPLINGS:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), colorsubsampling=sampling, quality=90)
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, "JPEG", subsampling=PILLOW_SAMPLINGS[sampling], **options)
    return out.getvalue()


OPTIONS = st.sampled_from(
    [{}, {"progressive": True}, {"restart_marker_blocks": 1}, {"restart_marker_rows": 1}, {"optimize": True},
     {"progressive": True, "restart_marker_rows": 1}, {"quality": 20}]
)  # fmt: skip
SAMPLINGS = st.sampled_from(["444", "422", "420", "440", "411", "Gray"])


@st.composite
def a_region_of_a_jpeg(draw):
    height, width = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    data = encoded(NOISE_HWC[:height, :width], draw(SAMPLINGS), **draw(OPTIONS))
    shrink = draw(st.sampled_from(SHRINKS)) if min(height, width) >= MIN_SHRUNK_PX else 1
    new_height, new_width = shrunk_size(height, width, shrink)
    top, left = draw(st.integers(0, new_height - 1)), draw(st.integers(0, new_width - 1))
    rows, columns = draw(st.integers(1, new_height - top)), draw(st.integers(1, new_width - left))
    return data, Region(top, left, rows, columns, shrink)


def cut_from_whole(data: bytes, wanted: Region) -> np.ndarray:
    header = read_jpeg_header(data)
    shrunk = shrunk_size(header.height, header.width, wanted.shrink)
    whole_HWC = decode_jpeg(data, header, min(shrunk) if wanted.shrink > 1 else 0)
    assert whole_HWC.shape[:2] == shrunk
    return wanted.of(whole_HWC)


@needs_native
@settings(max_examples=1500)
@given(a_region_of_a_jpeg())
def test_native_code_gives_the_pixels_of_the_whole_decode(case):
    data, wanted = case
    region_HWC = decode_jpeg_region(data, read_jpeg_header(data), wanted)
    assert region_HWC is not None
    np.testing.assert_array_equal(region_HWC, cut_from_whole(data, wanted))


@settings(max_examples=200)
@given(a_region_of_a_jpeg())
def test_the_pixels_are_the_same_without_native_code(case):
    data, wanted = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "_native", Native(False, "not built"))
        region_HWC = decode_region(data, read_jpeg_header(data), wanted)
    np.testing.assert_array_equal(region_HWC, cut_from_whole(data, wanted))


@needs_native
@settings(max_examples=200)
@given(a_region_of_a_jpeg(), st.integers(0, 40_000))
def test_pixels_lie_in_the_memory_that_is_given_where_it_has_room_and_never_beyond(case, num_bytes):
    data, wanted = case
    memory = np.full(num_bytes + 128, 77, np.uint8)
    region_HWC = decode_jpeg_region(data, read_jpeg_header(data), wanted, memory[64:-64])
    np.testing.assert_array_equal(region_HWC, cut_from_whole(data, wanted))
    assert (memory[:64] == 77).all()
    assert (memory[-64:] == 77).all()
    room = wanted.height * (wanted.width + 66) * 3
    assert np.shares_memory(region_HWC, memory) == (room <= num_bytes)


@needs_native
@settings(max_examples=300)
@given(a_region_of_a_jpeg(), st.integers(0, 1500))
def test_too_little_memory_is_refused_before_it_is_written_to(case, num_bytes):
    data, wanted = case
    header = read_jpeg_header(data)
    memory = np.full(num_bytes + 64, 77, np.uint8)
    place = regions._crops.decode_region(
        data, header.height, header.width, wanted.shrink, *wanted[:4], memory[:num_bytes]
    )
    if place is None:
        assert wanted.height * (wanted.width + 66) * 3 > num_bytes
    assert (memory[num_bytes:] == 77).all()


@needs_native
@settings(max_examples=300)
@given(a_region_of_a_jpeg(), st.data())
def test_damaged_bytes_are_refused_or_decoded_and_nothing_is_written_beyond(case, data):
    encoded_bytes, wanted = case
    damaged = bytearray(encoded_bytes)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(2, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(2, len(damaged)))])
    height, width = read_jpeg_header(encoded_bytes)[:2]
    memory = np.full(wanted.height * (wanted.width + 66) * 3 + 64, 77, np.uint8)
    place = regions._crops.decode_region(damaged, height, width, wanted.shrink, *wanted[:4], memory[:-64])
    assert place is None or place[1] <= (wanted.width + 66) * 3
    assert (memory[-64:] == 77).all()


@needs_native
@pytest.mark.parametrize(
    "asked",
    [(0, 0, 41, 5), (0, 0, 5, 61), (-1, 0, 5, 5), (0, -1, 5, 5), (40, 0, 1, 1), (0, 60, 1, 1), (0, 0, 0, 5),
     (0, 0, 5, 0), (2**31 - 1, 0, 2**31 - 1, 5), (0, 2**31 - 1, 5, 2**31 - 1)],
)  # fmt: skip
def test_a_rectangle_that_is_not_inside_is_refused(asked):
    data = encoded(NOISE_HWC[:40, :60], "420")
    memory = np.zeros(100_000, np.uint8)
    assert regions._crops.decode_region(data, 40, 60, 1, *asked, memory) is None
    assert regions._crops.decode_region(data, 40, 60, 1, 35, 55, 5, 5, memory) is not None


@needs_native
def test_a_header_that_lies_is_refused():
    data = bytearray(encoded(NOISE_HWC[:64, :64], "420"))
    size_at = data.index(b"\xff\xc0") + 5
    data[size_at : size_at + 4] = (3000).to_bytes(2, "big") * 2
    memory = np.zeros(10_000_000, np.uint8)
    ask = regions._crops.decode_region
    assert ask(bytes(data), 64, 64, 1, 0, 0, 64, 64, memory) is None  # another size than was checked
    assert ask(bytes(data), 3000, 3000, 1, 0, 0, 1000, 1000, memory) is None  # pixels that are not there
    with pytest.raises(ImageError, match="The JPEG is"):
        decode_region(bytes(data), read_jpeg_header(bytes(data)), Region(0, 0, 1000, 1000))


@needs_native
@pytest.mark.parametrize("shrink", [0, -1, 3, 16])
def test_a_scale_that_is_none_is_refused(shrink):
    data = encoded(NOISE_HWC[:40, :60], "420")
    assert regions._crops.decode_region(data, 40, 60, shrink, 0, 0, 1, 1, np.zeros(999, np.uint8)) is None


@needs_native
def test_tables_of_one_image_do_not_stand_in_for_those_of_the_next():
    data = encoded(NOISE_HWC[:40, :60], "444")
    at = data.index(b"\xff\xdb")
    without_tables = data[:at] + data[data.index(b"\xff\xc0") :]
    memory = np.zeros(100_000, np.uint8)
    for each, is_whole in ((data, True), (without_tables, False), (data, True)):
        place = regions._crops.decode_region(each, 40, 60, 1, 0, 0, 40, 60, memory)
        assert (place is not None) == is_whole


def test_damage_inside_the_region_has_the_decoder_s_reason():
    data = encoded(NOISE_HWC, "420")
    cut = data[: len(data) // 2]
    with pytest.raises(ImageError) as caught:
        decode_region(cut, read_jpeg_header(cut), Region(100, 0, 30, 130))
    assert caught.value.reason == "truncated"


def test_warnings_that_cost_no_pixel_are_let_through_as_in_the_whole_decode():
    data = bytearray(encoded(NOISE_HWC[:40, :40], "420"))
    data[data.index(b"JFIF\0") + 5] = 3  # a major revision that does not exist
    wanted = Region(5, 6, 20, 10)
    region_HWC = decode_region(bytes(data), read_jpeg_header(bytes(data)), wanted)
    np.testing.assert_array_equal(region_HWC, wanted.of(decode(encoded(NOISE_HWC[:40, :40], "420"))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_region_is_one_of_the_upright_image(orientation):
    image = Image.fromarray(NOISE_HWC[:40, :60])
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    wanted = Region(7, 9, 20, 15)
    region_HWC = decode_region(out.getvalue(), read_jpeg_header(out.getvalue()), wanted)
    np.testing.assert_array_equal(region_HWC, wanted.of(decode(out.getvalue())))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("WEBP", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L")])
def test_a_region_of_any_image(kind, mode):
    out = io.BytesIO()
    Image.fromarray(NOISE_HWC[:40, :60]).convert(mode).save(out, kind)
    data, wanted = out.getvalue(), Region(7, 9, 20, 15)
    np.testing.assert_array_equal(decode_region(data, read_jpeg_header(data), wanted), wanted.of(decode(data)))


def test_a_library_with_other_pixels_is_not_used(monkeypatch):
    class Brighter:
        LIBRARY = "libjpeg-turbo of another day"

        @staticmethod
        def decode_region(data, height, width, shrink, top, left, rows, columns, memory):
            whole_HWC = cut_from_whole(data, Region(0, 0, *shrunk_size(height, width, shrink), shrink))
            part_HWC = whole_HWC[top : top + rows, left : left + columns]
            memory[: part_HWC.size] = np.minimum(part_HWC.ravel(), 254)
            return 0, columns * 3

    monkeypatch.setattr(regions, "_crops", Brighter)
    monkeypatch.setattr(regions, "_native", None)
    assert native() == Native(False, "the pixels of libjpeg-turbo of another day are not simplejpeg's")


def test_where_it_is_not_built_everything_is_decoded_whole(monkeypatch):
    monkeypatch.setattr(regions, "_crops", None)
    monkeypatch.setattr(regions, "_native", None)
    assert native() == Native(False, "not built")
    data = encoded(NOISE_HWC[:40, :60], "420")
    assert decode_jpeg_region(data, read_jpeg_header(data), Region(0, 0, 4, 4)) is None


@needs_native
def test_the_gil_is_released():
    data = encoded(np.tile(NOISE_HWC, (16, 16, 1)), "420", progressive=True)
    header = read_jpeg_header(data)
    seen, begun, interval = [], threading.Event(), sys.getswitchinterval()

    def decode_once():
        begun.set()
        decode_jpeg_region(data, header, Region(0, 0, header.height, header.width))
        seen.append("decoded")

    thread = threading.Thread(target=decode_once)
    try:
        sys.setswitchinterval(60.0)  # from here on a thread goes on until it lets go by itself
        thread.start()
        begun.wait()
        seen.append("meanwhile")
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen == ["meanwhile", "decoded"]

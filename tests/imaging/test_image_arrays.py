"""NumPy arrays as images: what is read, as what, and what is refused before anything is allocated."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ImageError
from pipeline.imaging.arrays import encode_array
from pipeline.imaging.decode import decode, read_kind, read_size


def npy(array: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **options)
    return out.getvalue()


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@given(
    dtype=st.sampled_from(["|u1", "<u2", ">u2"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 9)).filter(lambda s: s[0] >= min(s[1:])),
    is_fortran=st.booleans(),
    version=st.sampled_from([(1, 0), (2, 0)]),
)
def test_the_pixels_are_those_that_were_saved(dtype, shape, is_fortran, version):
    array = noise(*shape, dtype=np.dtype(dtype).name).astype(dtype)
    data = npy(np.asfortranarray(array) if is_fortran else array, version=version)
    image_HWC = decode(data)
    np.testing.assert_array_equal(image_HWC, array)
    assert image_HWC.dtype.isnative
    assert image_HWC.flags.c_contiguous
    assert image_HWC.flags.aligned
    assert read_size(data) == shape[:2]
    assert read_kind(data) == f"NPY {shape[2]} {np.dtype(dtype).name}"


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3)])
def test_eight_bits_of_grey_or_colour_are_a_picture(shape):
    array = noise(*shape)
    np.testing.assert_array_equal(decode(npy(array)), np.broadcast_to(array.reshape(6, 5, -1), (6, 5, 3)))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4)])
def test_sixteen_bits_stay_whatever_the_channels(shape):
    array = noise(*shape, dtype="uint16")
    np.testing.assert_array_equal(decode(npy(array)), array.reshape(6, 5, -1))


@given(
    dtype=st.sampled_from(["uint8", "uint16"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).filter(lambda s: s[0] >= min(s[1:])),
)
def test_what_is_written_is_what_numpy_writes_and_reads(dtype, shape):
    array = noise(*shape, dtype=dtype)
    data = encode_array(array)
    assert data == npy(array)
    assert encode_array(array.astype(array.dtype.newbyteorder(">"))) == data
    assert encode_array(np.asfortranarray(array)) == data
    np.testing.assert_array_equal(np.load(io.BytesIO(data), allow_pickle=False), array)


WHOLE = npy(noise(6, 5, 4))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (npy(noise(4, 6, 5).astype(np.float32)), "unsupported_mode", "kind <f4 have no stated range; scale the values"),
        (npy(noise(4, 6, 5).astype(np.int16)), "unsupported_mode", "kind <i2 have no stated range"),
        (npy(np.array([[{"a": 1}]], object)), "unsupported_mode", r"kind \|O have no stated range"),
        (npy(np.zeros((2, 2), [("a", "u1")])), "unsupported_mode", "its values are no plain numbers; write uint8"),
        (npy(noise(7)), "unsupported_channels", "has 1 axes; an image has height, width and channels"),
        (npy(noise(2, 3, 4, 5)), "unsupported_channels", "has 4 axes"),
        (npy(noise(5, 64, 48)), "unsupported_channels", "shape 5 x 64 x 48 looks like channels first; store height x"),
        (npy(noise(600, 2, 513)), "unsupported_channels", "has 513 channels .* more than the 512 that are read"),
        (npy(noise(0, 6, 5)), "damaged", "no pixels: its shape is 0 x 6 x 5"),
        (WHOLE[:-1], "truncated", "it holds 119 bytes of pixels instead of 120"),
        (WHOLE + b"x", "damaged", "it holds 121 bytes of pixels instead of 120"),
        (WHOLE[:50], "truncated", "it ends inside its header"),
        (WHOLE[:8], "truncated", "it ends inside its header"),
        (WHOLE.replace(b"(6, 5, 4)", b"(6,-5, 4)"), "unsupported_mode", "is damaged, or its values"),
        (WHOLE[:6] + b"\x02\x00\xff\xff\xff\xff" + WHOLE[12:] + bytes(2000), "unsupported_mode", "is damaged, or its"),
    ],
)
def test_other_arrays_are_refused_with_the_way_out(data, reason, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode(data)
    assert caught.value.reason == reason


def test_a_header_that_lies_allocates_nothing():
    lie = WHOLE.replace(b"(6, 5, 4), }" + b" " * 16, b"(900000000, 900000000, 5), }")
    assert len(lie) == len(WHOLE)
    with pytest.raises(ImageError, match="it holds 120 bytes of pixels instead of 4050000000000000000"):
        decode(lie)


def test_bytes_are_limited():
    assert decode(WHOLE, max_pixels=40).shape == (6, 5, 4)
    with pytest.raises(ImageError, match="has 5 x 6 pixels and takes 120 bytes, more than the 117") as caught:
        decode(WHOLE, max_pixels=39)
    assert caught.value.reason == "too_many_pixels"


@given(st.data())
def test_damage_is_an_error_of_ours_or_other_pixels(data):
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ImageError):
        decode(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))

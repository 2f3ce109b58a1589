"""Images as native code reads them: from their places in files, with their sizes from their headers."""

import io

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.imaging.crops import CROP, UNREAD, native, read_images
from pipeline.imaging.jpeg import read_jpeg_header

pytestmark = pytest.mark.skipif(not native().is_used, reason=f"no native code: {native().why}")

NOISE_HWC = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
PHOTO = simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:120, :90]), quality=90, colorsubsampling="420")


def unread(num_bytes):
    row = np.zeros(1, CROP)
    row["num_bytes"], row["height"] = num_bytes, UNREAD
    return row


def test_images_are_read_from_their_places_and_their_sizes_from_their_headers(tmp_path):
    with_exif = io.BytesIO()
    Image.fromarray(NOISE_HWC[:20, :30]).save(with_exif, "JPEG", exif=Image.Exif())
    png = io.BytesIO()
    Image.fromarray(NOISE_HWC[:20, :30]).save(png, "PNG")
    large = simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:300, :259]))
    images = [PHOTO, with_exif.getvalue(), png.getvalue(), b"", b"\xff\xd8", large, PHOTO]
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"".join(images)[:-1])
        file.flush()
        rows = np.zeros(len(images), CROP)
        rows["num_bytes"] = [len(each) for each in images]
        rows["file_offset"] = rows["num_bytes"].cumsum() - rows["num_bytes"]
        rows["offset"] = (rows["num_bytes"][::-1].cumsum() - rows["num_bytes"][::-1])[::-1]  # the last one first
        rows["descriptor"], rows["height"] = file.fileno(), UNREAD
        room = int((rows["offset"] + rows["num_bytes"]).max())
        memory = np.zeros(room + 9, np.uint8)
        read_images(rows, memory[:room])
    assert rows["height"].tolist() == [120, 0, 0, 0, 0, 300, UNREAD]  # the last one is cut
    assert rows["width"][[0, 5]].tolist() == [90, 259]
    first = int(rows["offset"][0])
    assert memory[first : first + len(PHOTO)].tobytes() == PHOTO
    assert not memory[room:].any()


@pytest.mark.parametrize("change", [{"offset": 1}, {"offset": -1}, {"num_bytes": 2**40}, {"descriptor": -1}])
def test_what_cannot_be_read_stays_unread(tmp_path, change):
    (tmp_path / "file").write_bytes(PHOTO)
    row = unread(len(PHOTO))
    with (tmp_path / "file").open("rb") as file:
        row["descriptor"] = file.fileno()
        for name, value in change.items():
            row[name] = value
        read_images(row, np.empty(len(PHOTO), np.uint8))
    assert row["height"][0] == UNREAD


@settings(max_examples=150)
@given(st.integers(0, len(PHOTO)), st.integers(0, 700), st.integers(0, 255))
def test_a_header_is_read_as_the_decoder_reads_it_or_left(tmp_path_factory, num_bytes, at, value):
    damaged = bytearray(PHOTO)
    damaged[at] = value
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(damaged[:num_bytes])
    row = unread(num_bytes)
    with path.open("rb") as file:
        row["descriptor"] = file.fileno()
        read_images(row, np.empty(num_bytes, np.uint8))
    header = read_jpeg_header(bytes(damaged[:num_bytes]))
    if row["height"][0] > 0 and header is not None:
        assert (row["height"][0], row["width"][0]) == header.upright_size
        assert header.orientation == 1

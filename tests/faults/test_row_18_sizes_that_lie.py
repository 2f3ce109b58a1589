"""Row 18: huge headers, headers that lie, extreme shapes: rejected on the header, or decoded within a bound."""

import struct
import subprocess
import sys
import zlib

import data_project
import numpy as np
import simplejpeg
from image_folders import fill, jpeg
from tiffs import DEFLATE, PLAIN, tiff

from pipeline.imaging.arrays import encode_array

MAX_GROWTH_BYTES = 100 * 2**20
"""27 MB for the header that claims 3,000 x 3,000, which is under the limit, and some room; 20,000 x 20,000 pixels would
be 1,200 MB."""


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(jpeg(1))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff_claiming(width: int, height: int, compression: int) -> bytes:
    sizes = {256: ("I", (width,)), 257: ("I", (height,)), 278: ("I", (height,))}
    return tiff(np.zeros((4, 4, 5), np.uint8), compression=compression, changes=sizes)


def npy_claiming(width: int, height: int) -> bytes:
    data = encode_array(np.zeros((4, 4, 5), np.uint8))
    claim = f"({height}, {width}, 5), }}".encode()
    return data.replace(b"(4, 4, 5), }" + b" " * (len(claim) - 12), claim)


LYING = {
    "cat/huge.png": (png(20_000, 20_000, b""), "too_many_pixels"),
    "cat/huge.jpg": (jpeg_claiming(20_000, 20_000), "too_many_pixels"),
    "cat/lies.jpg": (jpeg_claiming(3_000, 3_000), "truncated"),
    "dog/lies.png": (png(3_000, 3_000, b"\0" * 100), "truncated"),
    "cat/huge.tif": (tiff_claiming(20_000, 20_000, DEFLATE), "too_many_pixels"),
    "dog/lies.tif": (tiff_claiming(3_000, 3_000, PLAIN), "truncated"),
    "dog/lies.npy": (npy_claiming(20_000, 20_000), "truncated"),
}
EXTREME = {
    "cat/dot.png": png(1, 1, b"\0\x80"),
    "cat/tall.png": png(1, 10_000, b"\0\x80" * 10_000),
    "dog/wide.png": png(10_000, 1, b"\0" + b"\x80" * 10_000),
    "dog/dot.jpg": simplejpeg.encode_jpeg(np.zeros((1, 1, 3), np.uint8)),
}


def test_a_lying_header_is_a_reject_and_an_extreme_shape_is_stored(tmp_path):
    contents = {name: data for name, (data, _) in LYING.items()}
    fill(tmp_path / "photos", {**contents, **EXTREME, "cat/1.jpg": jpeg(1), "dog/1.jpg": jpeg(2)})
    found = data_project.run(tmp_path)
    assert found.rejects == {name: reason for name, (_, reason) in LYING.items()}
    sizes = {path: (facts["height"], facts["width"]) for path, facts in found.samples.items() if path in EXTREME}
    assert sizes == {
        "cat/dot.png": (1, 1),
        "cat/tall.png": (10_000, 1),
        "dog/wide.png": (1, 10_000),
        "dog/dot.jpg": (1, 1),
    }


GROWTH = """
import resource, sys
from pathlib import Path
import data_project
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
data_project.run(Path(sys.argv[1]) / "plain")
before = peak()
print(sorted(data_project.run(Path(sys.argv[1]) / "lying").rejects.values()))
print("grown by", peak() - before)
"""


def test_nothing_is_allocated_for_a_size_that_is_refused(tmp_path, repository):
    plain = {"cat/1.jpg": jpeg(1), "dog/1.jpg": jpeg(2)}
    fill(tmp_path / "plain/photos", plain)
    fill(tmp_path / "lying/photos", plain | {name: data for name, (data, _) in LYING.items()})
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path],
        capture_output=True, text=True, env={"PYTHONPATH": f"{repository}:{repository / 'tests'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(sorted(reason for _, reason in LYING.values())) in done.stdout
    assert int(done.stdout.rpartition("grown by ")[2]) < MAX_GROWTH_BYTES

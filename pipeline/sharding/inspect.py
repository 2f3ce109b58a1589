"""The first pass over the images: each is read, hashed, decoded and, where it is to be shrunk, encoded, once.

Workers, on whatever machine, write piece files: encoded images, which lie there until the second pass copies them into
tars, and behind them what was seen of each, a row of LOOK_DTYPE, which the caller gathers in one file. Equal and near
images must go to one split, so nothing can be written in its final place before all of them were seen.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts import Reject
from pipeline.errors import ImageError
from pipeline.imaging.channels import RGB, Channels
from pipeline.sharding.encode import NUM_CHANNELS, ChannelSums, encode
from pipeline.sharding.groups import DIGEST_BYTES
from pipeline.sharding.likeness import LIKENESS_DTYPE
from pipeline.sharding.reading import read_image
from pipeline.sharding.resume import finish, read_seal, unfinished, write_seal
from pipeline.sharding.workers import Advance, Workers

RECORDS_PER_PIECE = 128
RECORDS_PER_REPORT = 16
ROWS_PER_READ = 2048
SUM_DTYPE = np.dtype("<i8")

LOOK_DTYPE = np.dtype(
    [
        ("sha256", "u1", DIGEST_BYTES),  # of the source's bytes
        ("height", "<i4"),
        ("width", "<i4"),  # of the source, upright
        ("num_channels", "<u2"),
        ("sample_bytes", "u1"),  # 1 for uint8, 2 for uint16
        ("num_pixels", "<i8"),  # none of an image that is not measured
        ("values", "<i8", NUM_CHANNELS),
        ("squares", "<i8", NUM_CHANNELS),  # sums over the stored pixels; of other channels than RGB see `read_sums`
        ("kind", "S16"),  # see imaging.decode.read_kind
        ("likeness", LIKENESS_DTYPE),
        ("spool_offset", "<i8"),
        ("spool_bytes", "<i8"),  # in the piece file; 0 for an image that keeps its own bytes
    ]
)
"""What is known of a record after the first pass; all zero of a reject."""


class Piece(NamedTuple):
    """Consecutive records of the manifest: a task of a worker process."""

    spool: Path
    first_row: int
    image_root: str
    paths: list[str]
    is_measured: list[bool]
    """For mean and standard deviation."""
    short_side_px: int | None
    jpeg_quality: int


class Inspected(NamedTuple):
    """A piece whose file is there."""

    first_row: int
    num_rows: int
    rejects: list[tuple[int, Reject]]
    """With their rows."""


def inspect_records(pieces: Iterable[Piece], looks: "Looks", workers: Workers, advance: Advance) -> dict[int, Reject]:
    """The rejects by row, in the manifest's order. What was seen is gathered in `looks`."""
    rejects = {}
    for inspected in workers.map(inspect_piece, pieces, advance):
        looks.gather(inspected)
        rejects.update(inspected.rejects)
    return rejects


def inspect_piece(piece: Piece, advance: Advance) -> Inspected:
    """What an earlier run finished is not done again."""
    rejects = _finished(piece)
    if rejects is not None:
        advance(len(piece.paths))
        return Inspected(piece.first_row, len(piece.paths), rejects)
    looks, rejects, num_spooled = np.zeros(len(piece.paths), LOOK_DTYPE), [], 0
    path, sha256 = _piece_path(piece.spool, piece.first_row), hashlib.sha256()
    with unfinished(path).open("wb", buffering=2**20) as file:
        for position, (source, is_measured) in enumerate(zip(piece.paths, piece.is_measured, strict=True)):
            if (position + 1) % RECORDS_PER_REPORT == 0:
                advance(RECORDS_PER_REPORT)
            try:
                looks[position], sums, spooled = _look_at(piece, source, is_measured)
            except ImageError as exc:
                reject = Reject(path=source, reason=exc.reason, detail=str(exc))
                rejects.append((piece.first_row + position, reject))
                continue
            looks[position]["spool_offset"] = num_spooled + len(sums)
            num_spooled += file.write(sums) + file.write(spooled)
            sha256.update(sums + spooled)
        file.write(looks.tobytes())
        sha256.update(looks.tobytes())
    finish(path)
    rows_and_rejects = [(row, reject.model_dump()) for row, reject in rejects]
    write_seal(path.with_suffix(".seal"), {"sha256": sha256.hexdigest(), "rejects": rows_and_rejects})
    advance(len(piece.paths) % RECORDS_PER_REPORT)
    return Inspected(piece.first_row, len(piece.paths), rejects)


def _finished(piece: Piece) -> list[tuple[int, Reject]] | None:
    """The rejects of a piece whose seal fits its bytes; None when it has to be done."""
    path = _piece_path(piece.spool, piece.first_row)
    seal = read_seal(path.with_suffix(".seal"))
    if seal is None or not path.exists():
        return None
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != seal["sha256"]:
            return None
    return [(row, Reject(**reject)) for row, reject in seal["rejects"]]


def _look_at(piece: Piece, path: str, is_measured: bool) -> tuple[np.void, bytes, bytes]:
    """A scalar of LOOK_DTYPE, the sums of channels that have no place in it, and the image's bytes to spool: none where
    it keeps its own."""
    data = read_image(piece.image_root, path)
    encoded = encode(data, piece.short_side_px, piece.jpeg_quality, is_measured)
    spooled = b"" if encoded.data is data else encoded.data
    look = np.zeros((), LOOK_DTYPE)
    look["sha256"] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    look["height"], look["width"] = encoded.source_height, encoded.source_width
    look["num_channels"], look["sample_bytes"] = encoded.channels.number, np.dtype(encoded.channels.dtype).itemsize
    look["num_pixels"], sums = encoded.sums.num_pixels, b""
    if encoded.channels == RGB:
        look["values"], look["squares"] = encoded.sums.values, encoded.sums.squares
    else:
        sums = np.array([encoded.sums.values, encoded.sums.squares], SUM_DTYPE).tobytes()
    look["kind"] = encoded.kind.encode("ascii", "replace")
    look["likeness"] = encoded.likeness
    look["spool_bytes"] = len(spooled)
    return look[()], sums, spooled


class Looks:
    """The rows of LOOK_DTYPE of the first pass, in one file of the spool folder. Read from disk on demand: a million
    are some hundred megabytes."""

    def __init__(self, spool: Path, num_records: int):
        self._spool, self._path, self._num_records = spool, spool / "looks", num_records

    def create(self) -> None:
        """Makes room for the rows: all zero."""
        with self._path.open("wb") as file:
            file.truncate(self._num_records * LOOK_DTYPE.itemsize)

    def gather(self, inspected: Inspected) -> None:
        """Takes a piece's rows from its file. One process does so: not every shared folder lets several write into
        one file."""
        num_bytes = inspected.num_rows * LOOK_DTYPE.itemsize
        with _piece_path(self._spool, inspected.first_row).open("rb", buffering=0) as piece:
            piece.seek(-num_bytes, os.SEEK_END)
            rows = piece.read(num_bytes)
        with self._path.open("r+b") as file:  # buffered, since a full disk takes a part of an unbuffered write
            file.seek(inspected.first_row * LOOK_DTYPE.itemsize)
            file.write(rows)

    def batches(self, *names: str) -> Iterator[np.ndarray]:
        """[at most ROWS_PER_READ, ...]: one field of some rows after the other, or a field of a field."""
        with self._path.open("rb") as file:
            for start in range(0, self._num_records, ROWS_PER_READ):
                num_rows = min(ROWS_PER_READ, self._num_records - start)
                rows = np.frombuffer(file.read(num_rows * LOOK_DTYPE.itemsize), LOOK_DTYPE)
                for name in names:
                    rows = rows[name]
                yield rows

    def column(self, *names: str) -> np.ndarray:
        """[num_records, ...]: one field of every row, or a field of a field."""
        dtype = LOOK_DTYPE
        for name in names:
            dtype = dtype[name]
        column, start = np.zeros(self._num_records, dtype), 0
        for rows in self.batches(*names):
            column[start : start + len(rows)] = rows
            start += len(rows)
        return column

    def contents(self) -> np.ndarray:
        """uint64 [num_records]: the first eight bytes of each digest. Equal for equal images, and hardly ever else."""
        contents, start = np.empty(self._num_records, "<u8"), 0
        for digests in self.batches("sha256"):
            contents[start : start + len(digests)] = np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0]
            start += len(digests)
        return contents

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """[len(rows)] of LOOK_DTYPE."""
        looks = np.zeros(len(rows), LOOK_DTYPE)
        with self._path.open("rb", buffering=0) as file:
            for position, row in enumerate(rows.tolist()):
                file.seek(row * LOOK_DTYPE.itemsize)
                file.readinto(memoryview(looks[position : position + 1]).cast("B"))
        return looks

    def digests(self, rows: np.ndarray) -> np.ndarray:
        """uint8 [len(rows), 32]"""
        digests = np.empty((len(rows), DIGEST_BYTES), np.uint8)
        for start in range(0, len(rows), ROWS_PER_READ):
            part = slice(start, start + ROWS_PER_READ)
            digests[part] = self.rows(rows[part])["sha256"]
        return digests


def look_channels(look: np.void) -> Channels:
    """Those of one image that is no reject."""
    return Channels(int(look["num_channels"]), f"uint{8 * int(look['sample_bytes'])}")


def read_sums(spool: Path, row: int, look: np.void) -> ChannelSums:
    """Of an image with other channels than RGB: they lie in the piece file before the place of its bytes."""
    num_bytes = 2 * int(look["num_channels"]) * SUM_DTYPE.itemsize
    with _piece_path(spool, row - row % RECORDS_PER_PIECE).open("rb", buffering=0) as file:
        file.seek(int(look["spool_offset"]) - num_bytes)
        values, squares = np.frombuffer(file.read(num_bytes), SUM_DTYPE).reshape(2, -1).tolist()
    return ChannelSums(int(look["num_pixels"]), tuple(values), tuple(squares))


def read_spooled(spool: Path, row: int, look: np.void) -> bytes:
    """The encoded image of one record."""
    with _piece_path(spool, row - row % RECORDS_PER_PIECE).open("rb", buffering=0) as file:
        file.seek(look["spool_offset"])
        return file.read(look["spool_bytes"])


def _piece_path(spool: Path, first_row: int) -> Path:
    return spool / f"{first_row // RECORDS_PER_PIECE:08d}.piece"

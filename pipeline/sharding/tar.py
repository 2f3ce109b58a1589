"""Tar files that are the same bytes for the same members: USTAR, no clock, no owner, no order but ours."""

import hashlib
import tarfile
from pathlib import Path

BLOCK_BYTES = tarfile.BLOCKSIZE
MEMBER_MODE = 0o644


class TarWriter:
    """Writes members one after the other; sha256 and size are known after the `with`."""

    def __init__(self, path: Path):
        self._path = path
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def __enter__(self) -> "TarWriter":
        self._file = self._path.open("wb", buffering=2**20)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._write(bytes(2 * BLOCK_BYTES))
                self._write(bytes(-self.num_bytes % tarfile.RECORDSIZE))
        finally:
            self._file.close()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def add(self, name: str, data: bytes) -> int:
        """The offset of the member's data in the file."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), MEMBER_MODE
        self._write(member.tobuf(tarfile.USTAR_FORMAT))
        offset = self.num_bytes
        self._write(data)
        self._write(bytes(-len(data) % BLOCK_BYTES))
        return offset

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.num_bytes += len(data)


def member_end(data_offset: int, num_bytes: int) -> int:
    """Where the header of the next member begins."""
    return data_offset + -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES

"""What a sample is known by when the set grows: hashes of its path, its content and all that is said of it."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.sample_table import labels_of
from pipeline.sharding.pack import class_member

IDENTITY_DTYPE = np.dtype([("image", "<u8", 2), ("facts", "<u8", 2), ("content", "<u8")])
"""128 bits each of path and content, which have a part, and of all that a sample's members say beside the pixels; and
the first bytes of the content's digest."""


def identities_in(tar_path: Path, table: np.ndarray) -> np.ndarray:
    """IDENTITY_DTYPE [num_stored]: those of the samples in a tar, by its stored table."""
    return hash_identities(_samples_in(tar_path, table))


def hash_identities(samples: Iterable[tuple[str, bytes, bytes, bytes]]) -> np.ndarray:
    """IDENTITY_DTYPE; of path, `cls` member, JSON member and the sha256 of the source of each."""
    hashed = (
        hashlib.blake2b(digest + path.encode(), digest_size=16).digest()
        + hashlib.blake2b(of_class + b" " + facts, digest_size=16).digest()
        + digest[:8]
        for path, of_class, facts, digest in samples
    )
    return np.frombuffer(b"".join(hashed), IDENTITY_DTYPE)


def _samples_in(tar_path: Path, table: np.ndarray) -> Iterator[tuple[str, bytes, bytes, bytes]]:
    with tar_path.open("rb") as tar:
        for row in table:
            tar.seek(row["json_offset"])
            facts = tar.read(row["json_bytes"])
            says = json.loads(facts)
            yield says["path"], class_member(labels_of(row)), facts, bytes.fromhex(says["sha256"])

"""Shards at an address: every file under a name that belongs to its content, so that none replaces another.

Only the index knows which of them are a set. A killed run leaves some that no index names; they are used again.
"""

import io
from pathlib import Path

import numpy as np

from pipeline import stores
from pipeline.artifacts import Shard
from pipeline.errors import ArtifactError
from pipeline.sample_table import parse_sample_table, read_stored_table
from pipeline.sharding.identity import IDENTITY_DTYPE, identities_in
from pipeline.sharding.pack import ENDINGS

MAX_TABLE_BYTES = 2**30
"""Of what is read whole; a table of a million samples has 36 MB."""


def send_shard(shard: Shard, folder: Path, location: str) -> None:
    """Moves the shard's files from the folder to the address. Raises StorageError."""
    tar_path, table_path = folder / f"{shard.name}.tar", folder / f"{shard.name}.npy"
    identities_path = folder / f"{shard.name}.identities"
    with identities_path.open("wb") as file:
        np.save(file, identities_in(tar_path, read_stored_table(folder / "index.json", shard)), allow_pickle=False)
    stores.upload(tar_path, stores.join(location, shard.tar_object))
    stores.upload(table_path, stores.join(location, shard.table_object))
    stores.upload(identities_path, stores.join(location, _identities_object(shard)))
    for path in (identities_path, *(folder / f"{shard.name}.{ending}" for ending in ENDINGS)):
        path.unlink()


def has_shard(shard: Shard, location: str) -> bool:
    """Whether all that `send_shard` sends is there."""
    try:
        measured = stores.measure(stores.join(location, shard.tar_object))
        stores.measure(stores.join(location, shard.table_object))
        stores.measure(stores.join(location, _identities_object(shard)))
    except FileNotFoundError:
        return False
    return measured.num_bytes == shard.num_bytes


def fetch_table(shard: Shard, location: str) -> np.ndarray:
    """The stored table. Raises ArtifactError when it is not what the index says."""
    address = stores.join(location, shard.table_object)
    return parse_sample_table(_read(address), shard, stores.without_secrets(address))


def fetch_identities(shard: Shard, location: str) -> np.ndarray:
    """IDENTITY_DTYPE [num_stored]. Raises ArtifactError when they, or the tar, are missing or of another size.

    No sha256 is needed: a damaged identity is nobody's, and what nobody has is written again.
    """
    address = stores.join(location, _identities_object(shard))
    if not has_shard(shard, location):
        raise ArtifactError(f"{stores.without_secrets(stores.join(location, shard.tar_object))} is missing or cut")
    try:
        identities = np.lib.format.read_array(io.BytesIO(_read(address)), allow_pickle=False)
    except ValueError as exc:
        raise ArtifactError(f"{stores.without_secrets(address)} is damaged ({exc})") from exc
    if identities.dtype != IDENTITY_DTYPE or len(identities) != shard.num_stored:
        raise ArtifactError(f"{stores.without_secrets(address)} is of another form than {shard.num_stored} identities")
    return identities


def _read(address: str) -> bytes:
    try:
        return stores.read(address, 0, None, _check_size)
    except FileNotFoundError as exc:
        raise ArtifactError(f"{stores.without_secrets(address)} is missing") from exc


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        raise ArtifactError(f"a table of {num_bytes} bytes is more than the {MAX_TABLE_BYTES} that are read")


def _identities_object(shard: Shard) -> str:
    """They are made of the tar alone."""
    return f"{shard.sha256}.identities.npy"

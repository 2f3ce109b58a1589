"""Row 14: a damaged shard is found by `convoy verify`, and by the loader before the first sample of it is used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_folders import build, fill, jpeg

from pipeline.artifacts import Index, file_sha256, index_digest
from pipeline.errors import ArtifactError
from pipeline.loading.read import SplitReader
from pipeline.sample_table import read_sample_table
from pipeline.sharding.build import SplitRule
from pipeline.sharding.tar import BLOCK_BYTES
from pipeline.sharding.verify import verify_shard_set

NUM_SAMPLES = 12
VICTIM = "train/train-000001"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    source = fill(folder / "source", {f"{'ab'[n % 2]}/{n}.jpg": jpeg(n) for n in range(2 * 8 + NUM_SAMPLES)})
    build(source, folder / "shards", rule=SplitRule(0.0, 0.0, 0))
    return folder / "shards"


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "shards")
    return tmp_path / "shards"


def members(folder: Path) -> list[tuple[int, int]]:
    """Where each member of the victim begins (its header) and ends."""
    index = Index.read(folder / "index.json", "shard")
    (shard,) = [each for each in index.splits["train"] if each.name == VICTIM]
    edges = []
    for row in read_sample_table(folder / "index.json", shard):
        image, facts = int(row["image_offset"]) - BLOCK_BYTES, int(row["json_offset"]) - BLOCK_BYTES
        cls = facts - 2 * BLOCK_BYTES
        end = facts + BLOCK_BYTES + -(-int(row["json_bytes"]) // BLOCK_BYTES) * BLOCK_BYTES
        edges += [(image, cls), (cls, facts), (facts, end)]
    return edges


def interleaved(data: bytes, edges: list[tuple[int, int]]) -> bytes:
    """The second sample's image before the first one's label."""
    parts = [data[start:end] for start, end in edges]
    parts[1:4] = [parts[3], parts[1], parts[2]]
    return b"".join(parts) + data[edges[-1][1] :]


def key_twice(data: bytes, edges: list[tuple[int, int]]) -> bytes:
    """The second sample is the first one again."""
    first, second = data[: edges[2][1]], slice(edges[3][0], edges[5][1])
    return data[: second.start] + first + data[second.stop :]


DAMAGE = {
    "cut on a member border": lambda data, edges: data[: edges[-3][0]],
    "cut on a member border, ended well": lambda data, edges: data[: edges[-3][0]] + bytes(2 * BLOCK_BYTES),
    "cut inside a header": lambda data, edges: data[: edges[4][0] + 100],
    "cut inside data": lambda data, edges: data[: edges[3][0] + BLOCK_BYTES + 100],
    "emptied": lambda data, edges: b"",
    "members interleaved": interleaved,
    "a key twice": key_twice,
    "something after the end": lambda data, edges: data + bytes(BLOCK_BYTES),
}


def damage(folder: Path, how) -> None:
    path = folder / f"{VICTIM}.tar"
    before = path.read_bytes()
    after = how(before, members(folder))
    assert after != before
    path.write_bytes(after)


def check_it_is_found(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"train-000001.tar"):
        verify_shard_set(folder / "index.json", lambda count: None)
    reader = SplitReader(folder / "index.json", "train")
    number = sum(reader.shard_sizes[:1])
    try:
        for first in (number, number + reader.shard_sizes[1] - 1):
            shards, rows = reader.locate(np.array([first]))
            with pytest.raises(ArtifactError, match=r"train-000001.tar was changed after it was written"):
                reader.image_bytes(int(shards[0]), rows[0])
        shards, rows = reader.locate(np.array([0]))
        assert len(reader.image_bytes(int(shards[0]), rows[0])) == rows[0]["image_bytes"], "the others are good"
    finally:
        reader.close()


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found(folder, name):
    damage(folder, DAMAGE[name])
    check_it_is_found(folder)


@pytest.mark.parametrize("part", np.linspace(0, 1, 24, endpoint=False))
def test_one_flipped_byte_anywhere_is_found(folder, part):
    def flip(data: bytes, _) -> bytes:
        place = int(part * len(data))
        return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]

    damage(folder, flip)
    check_it_is_found(folder)


@pytest.mark.parametrize("name", [name for name in DAMAGE if name != "something after the end"])
def test_damage_that_the_index_was_made_to_fit_is_found_in_the_members(folder, name):
    damage(folder, DAMAGE[name])
    content = json.loads((folder / "index.json").read_text())
    tar = folder / f"{VICTIM}.tar"
    content["splits"]["train"][1] |= {"num_bytes": tar.stat().st_size, "sha256": file_sha256(tar)}
    index = Index(**content)
    shards = [shard for shards in index.splits.values() for shard in shards]
    index.model_copy(update={"digest": index_digest(index.classes, shards)}).write(folder / "index.json")
    with pytest.raises(ArtifactError, match=r"train-000001.tar is damaged: \d{9}.(jpg|cls|json) at byte \d+"):
        verify_shard_set(folder / "index.json", lambda count: None)

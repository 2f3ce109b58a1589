"""The files that cross a stage: what is written is what is read, and what is damaged is refused with a way out."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import artifacts, path_names, sample_table
from pipeline.errors import ArtifactError

SCAN = artifacts.Scan(
    source="photos",
    num_records=3,
    num_bytes=99,
    class_counts={"cat": 1, "chien ü": 2},
    split_counts={},
    ignored={"not_an_image": 1},
)


def shard(
    num_samples: int,
    name: str = "train/train-000000",
    class_counts: tuple[int, ...] = (1, 2),
    table_sha256: str = "b" * 64,
) -> artifacts.Shard:
    return artifacts.Shard(
        name=name,
        num_samples=num_samples,
        num_bytes=10_240,
        sha256="a" * 64,
        table_sha256=table_sha256,
        class_counts=list(class_counts),
    )


def index(shards: list[artifacts.Shard]) -> artifacts.Index:
    return artifacts.Index(
        classes=["cat", "dog"],
        image_extension="jpg",
        num_channels=3,
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.2, 0.1],
        metadata_columns=[],
        splits={"train": shards, "validation": [], "test": []},
        num_records=sum(s.num_samples for s in shards),
        num_rejects=0,
        digest=artifacts.index_digest(["cat", "dog"], shards),
    )


@given(st.binary())
@example(b"a\\b")
@example(b"\\xff")
@example("naïve 日本.jpg".encode())
@example(b"cut \xe6\x97")
@example(b"trailing\\")
def test_an_escaped_path_comes_back(name):
    text = path_names.escape_path(name)
    assert path_names.unescape_path(text) == name
    text.encode("utf-8")


@given(st.binary(), st.binary())
@example(b"\xff", b"\\xff")
def test_two_paths_never_escape_to_one(one, other):
    assert (path_names.escape_path(one) == path_names.escape_path(other)) == (one == other)


def test_an_ordinary_path_stays_as_it_is():
    assert path_names.escape_path("été/日本 1.jpg".encode()) == "été/日本 1.jpg"


@pytest.mark.parametrize("artifact", [SCAN, index([shard(3)])], ids=["scan", "index"])
def test_an_artifact_comes_back(tmp_path, artifact):
    path = tmp_path / "artifact.json"
    artifact.write(path)
    assert type(artifact).read(path, "scan") == artifact
    assert path.read_bytes().endswith(b"}\n")


def test_a_missing_artifact_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(ArtifactError, match=r"scan.json does not exist; run `convoy scan` first \(or `dvc repro`\)."):
        artifacts.Scan.read(tmp_path / "scan.json", "scan")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_records": "many"}, "num_records: Input should be a valid integer"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"num_bytes": ...}, "num_bytes: Field required"),
        ({"class_counts": {"cat": None}}, "class_counts.cat: Input should be a valid integer"),
    ],
)
def test_a_changed_artifact_names_the_field(tmp_path, change, complaint):
    path = tmp_path / "scan.json"
    content = {key: value for key, value in (SCAN.model_dump() | change).items() if value is not ...}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        artifacts.Scan.read(path, "scan")
    assert f"{path} cannot be read: {complaint}" in str(caught.value)
    assert str(caught.value).endswith("; make it again with `convoy scan`.")


def test_a_truncated_artifact_is_refused(tmp_path):
    path = tmp_path / "scan.json"
    SCAN.write(path)
    whole = path.read_bytes()
    for length in range(len(whole) - 2):  # the last two bytes are the brace and a line's end
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="cannot be read: the file: Invalid JSON"):
            artifacts.Scan.read(path, "scan")


def test_an_index_of_another_format_is_refused(tmp_path):
    path = tmp_path / "index.json"
    content = index([shard(3)]).model_dump() | {"format_version": 2}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match="format_version: Input should be 1"):
        artifacts.Index.read(path, "shard")


def leave_a_shard_out(content: dict) -> None:
    content["splits"]["train"].pop()


def swap_two_classes(content: dict) -> None:
    content["classes"].reverse()


def list_another_tar(content: dict) -> None:
    content["splits"]["train"][0]["sha256"] = "c" * 64


def remove_a_sample(content: dict) -> None:
    content["splits"]["train"][0] |= {"num_samples": 2, "tombstones": [1]}


@pytest.mark.parametrize("tamper", [leave_a_shard_out, swap_two_classes, list_another_tar, remove_a_sample])
def test_an_index_that_its_own_digest_does_not_name_is_refused(tmp_path, tamper):
    path = tmp_path / "index.json"
    content = index([shard(3), shard(5, "train/train-000001")]).model_dump()
    path.write_text(json.dumps(content), encoding="utf-8")
    artifacts.Index.read(path, "shard")
    tamper(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError) as caught:
        artifacts.Index.read(path, "shard")
    assert str(caught.value) == (
        f"{path} was changed: its digest is not that of its shards; run `convoy shard` again (or `dvc checkout --force "
        "data/shards`)."
    )


def test_an_index_adds_up_its_shards():
    whole = index([shard(3), shard(5, "train/train-000001", (5, 0))])
    assert whole.num_samples("train") == 8
    assert whole.num_samples("test") == 0
    assert whole.class_counts("train") == [6, 2]
    assert whole.class_counts("test") == [0, 0]


def test_the_digest_follows_whatever_a_loader_hands_out():
    shards = [shard(3), shard(5, "train/train-000001")]
    digest = artifacts.index_digest(["cat", "dog"], shards)
    assert digest == artifacts.index_digest(("cat", "dog"), iter(shards))
    others = [
        artifacts.index_digest(["dog", "cat"], shards),
        artifacts.index_digest(["cat, dog"], shards),
        artifacts.index_digest(["cat", "dog"], shards[::-1]),
        artifacts.index_digest(["cat", "dog"], shards[:1]),
        *(
            artifacts.index_digest(["cat", "dog"], [shards[0].model_copy(update=change), shards[1]])
            for change in (
                {"name": "x"},
                {"num_samples": 4},
                {"sha256": "c" * 64},
                {"table_sha256": "c" * 64},
                {"tombstones": [0]},
                {"tombstones": [1]},
            )
        ),
    ]
    assert len({digest, *others}) == 1 + len(others)


@pytest.fixture
def write_table(tmp_path):
    """Writes an array as the table of a shard of three samples; gives the table's path and what reads it."""
    path = tmp_path / "train" / "train-000000.npy"
    path.parent.mkdir()

    def write(rows: np.ndarray):
        np.save(path, rows)
        listed = shard(3, table_sha256=artifacts.file_sha256(path))
        return path, lambda: sample_table.read_sample_table(tmp_path / "index.json", listed)

    return write


def test_a_sample_table_comes_back(write_table):
    rows = np.zeros(3, sample_table.SAMPLE_DTYPE)
    rows["key"] = [7, 8, 9]
    _, read = write_table(rows)
    assert np.array_equal(read(), rows)


def test_tombstones_are_left_out_of_the_samples_and_not_out_of_the_stored_ones(write_table):
    rows = np.zeros(5, sample_table.SAMPLE_DTYPE)
    rows["key"] = [7, 8, 9, 10, 11]
    path, _ = write_table(rows)
    removed = shard(3, table_sha256=artifacts.file_sha256(path)).model_copy(update={"tombstones": [0, 3]})
    index_path = path.parents[1] / "index.json"
    assert sample_table.read_sample_table(index_path, removed)["key"].tolist() == [8, 9, 11]
    assert np.array_equal(sample_table.read_stored_table(index_path, removed), rows)
    short = removed.model_copy(update={"tombstones": [0]})
    with pytest.raises(ArtifactError, match="the index says 4 samples"):
        sample_table.read_sample_table(index_path, short)


def test_a_missing_sample_table(write_table):
    path, read = write_table(np.zeros(3, sample_table.SAMPLE_DTYPE))
    path.unlink()
    with pytest.raises(ArtifactError, match=r"train-000000.npy is missing; run `convoy shard` \(or `dvc checkout`\)."):
        read()


def test_a_sample_table_with_one_flipped_byte_or_cut_anywhere(write_table):
    path, read = write_table(np.zeros(3, sample_table.SAMPLE_DTYPE))
    whole = path.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for damaged in [*flipped, *(whole[:length] for length in range(len(whole)))]:
        path.write_bytes(damaged)
        with pytest.raises(
            ArtifactError, match=r"npy is not the table that the index lists; run `convoy shard` again\."
        ):
            read()


@pytest.mark.parametrize(
    ("rows", "what"),
    [(np.zeros(4, sample_table.SAMPLE_DTYPE), r"\(4,\) of "), (np.zeros(3, np.int64), r"\(3,\) of int64")],
)
def test_a_sample_table_of_another_shape(write_table, rows, what):
    _, read = write_table(rows)
    with pytest.raises(ArtifactError, match=rf"holds {what}.*, the index says 3 samples; run `convoy shard` again\."):
        read()


def test_a_pickle_in_the_place_of_a_table_is_not_loaded_even_when_the_index_lists_it(write_table, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("canary").touch, ())

    _, read = write_table(np.array([Bomb()] * 3, dtype=object))
    with pytest.raises((ArtifactError, ValueError)):
        read()
    assert not (tmp_path / "canary").exists()


HISTORY = f"{','.join(artifacts.HISTORY_COLUMNS)}\n"


def test_a_history_comes_back_with_its_gaps(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(HISTORY + "1,10,0.5,,0.9,,0,1e-3,100\n2,20,0.25,0.75,1,,0,0,101.5\n", encoding="utf-8")
    columns = artifacts.read_history(path)
    assert tuple(columns) == artifacts.HISTORY_COLUMNS
    assert columns["train_loss"] == [0.5, 0.25]
    assert columns["lr"] == [0.001, 0.0]
    assert np.isnan(columns["validation_loss"][0])
    assert columns["validation_loss"][1] == 0.75


def test_a_missing_history(tmp_path):
    with pytest.raises(ArtifactError, match=r"history.csv does not exist; run `convoy train` first"):
        artifacts.read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("text", ["epoch,step\n1,10\n", HISTORY + "1,10\n", HISTORY + "1,10,low,,,,,,\n"])
def test_a_damaged_history(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"is not a table of numbers with the columns epoch, step, .* \(.+\); make"):
        artifacts.read_history(path)


def test_the_sha256_of_a_file(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert artifacts.file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()

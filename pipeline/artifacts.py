"""The files that cross a stage: their formats, read and written here and nowhere else.

A reader checks what it reads and raises ArtifactError (what, where, do this). A writer writes where it is told; that
the place is private and is renamed at the end is the business of `pipeline.stages.publish`.
"""

import csv
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic

from pipeline.errors import ArtifactError

SPLITS = ("train", "validation", "test")
FORMAT_VERSION = 1

MANIFEST_COLUMNS = ("path", "class_name", "split", "group", "num_bytes", "stamp", "metadata")
"""manifest.parquet, a row per record, sorted by path: path relative to the source (see `path_names`), class name,
given split or null, group or null, file size, a stamp that changes with the content (mtime in ns, etag), and the
metadata columns as one JSON object. Of a multi-label source, CLASS_NAMES takes the place of class_name."""

CLASS_NAMES = "class_names"
"""A record's classes as a JSON list of texts, sorted, each once; `[]` for none."""


SCORES = {"top1": "top-1", "mean_ap": "mAP"}
"""What models are compared by, of sets with one class an image and of multi-label ones, as people call it."""


class Artifact(pydantic.BaseModel):
    """A JSON file between two stages."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, path: Path, made_by: str):
        """Raises ArtifactError naming the stage that makes the file."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as exc:
            raise ArtifactError(f"{path} does not exist; run `convoy {made_by}` first (or `dvc repro`).") from exc
        except pydantic.ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ArtifactError(
                f"{path} cannot be read: {where}: {first['msg']}; make it again with `convoy {made_by}`."
            ) from exc

    def write(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Scan(Artifact):
    """data/scan.json"""

    source: str
    num_records: int
    num_bytes: int
    class_counts: dict[str, int]
    """Of a multi-label source a record counts for all of its classes."""
    split_counts: dict[str, int]
    """Records with a given split; empty where the source fixes none."""
    ignored: dict[str, int]
    """Files that are no records, by reason."""
    multi_label: bool = False
    """Whether a record has any number of classes rather than one."""
    num_without_class: int = 0


class Shard(Artifact):
    """One tar of the index. Beside `<name>.tar` lies its sample table `<name>.npy` (see `sample_table`)."""

    name: str
    """Relative to the index, without the ending: `train/train-000000`."""
    num_samples: int
    """Without the tombstones."""
    num_bytes: int
    sha256: str
    table_sha256: str
    class_counts: list[int]
    """Without the tombstones. In a multi-label set a sample counts for all of its classes."""
    tombstones: list[int] = []
    """Rows of the table, ascending, whose samples still lie in the tar and are not to be used: their images were
    removed after the tar was written."""

    @property
    def num_stored(self) -> int:
        """Samples in the tar."""
        return self.num_samples + len(self.tombstones)

    @property
    def tar_object(self) -> str:
        """The tar's name at the index's location: that of its content, so that no object is ever overwritten."""
        return f"{self.sha256}.tar"

    @property
    def table_object(self) -> str:
        return f"{self.table_sha256}.npy"


MadeWith = str | int | float | bool | list[str] | None


class Index(Artifact):
    """data/shards/index.json: the truth about a shard set. Its digest names the data of a run."""

    format: Literal["convoy-shards"] = "convoy-shards"
    format_version: Literal[1] = FORMAT_VERSION
    classes: list[str]
    """Class names; the position is the label."""
    multi_label: bool = False
    """Whether a sample has any number of labels rather than one."""
    image_extension: str
    num_channels: int
    pixel_dtype: Literal["uint8", "uint16"] = "uint8"
    mean: list[float]
    """Per channel over the training split, pixels scaled to 0..1 by the largest value of their type."""
    std: list[float]
    metadata_columns: list[str]
    splits: dict[str, list[Shard]]
    num_records: int
    num_rejects: int
    generation: int = 0
    """How often the set was grown or shrunk since it was written anew."""
    made_with: dict[str, MadeWith] = {}
    """By name, what beside the images decided the set; it is grown under the same only."""
    location: str | None = None
    """Where the shards lie when not beside the index: an address such as `s3://bucket/photos`, under their
    `tar_object` and `table_object` names. No part of the digest: the same data elsewhere is the same data."""
    digest: str

    @classmethod
    def read(cls, path: Path, made_by: str) -> "Index":
        """Raises ArtifactError as every artifact does, and for an index that its own digest does not name."""
        index = super().read(path, made_by)
        if index_digest(index.classes, itertools.chain.from_iterable(index.splits.values())) != index.digest:
            raise ArtifactError(
                f"{path} was changed: its digest is not that of its shards; run `convoy {made_by}` again (or `dvc "
                "checkout --force data/shards`)."
            )
        return index

    def num_samples(self, split: str) -> int:
        return sum(shard.num_samples for shard in self.splits[split])

    @property
    def score_name(self) -> str:
        """The validation figure that runs on this set are compared by."""
        return "mean_ap" if self.multi_label else "top1"

    def class_counts(self, split: str) -> list[int]:
        """Samples of each label."""
        counts = np.zeros(len(self.classes), np.int64)
        for shard in self.splits[split]:
            counts += shard.class_counts
        return counts.tolist()


def index_digest(classes: Sequence[str], shards: Iterable[Shard]) -> str:
    """Digest of all that decides what a loader hands out: the classes, every shard's bytes and tombstones, in order."""
    parts = [json.dumps(list(classes)), *map(_identity, shards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _identity(shard: Shard) -> str:
    removed = "".join(f" -{row}" for row in shard.tombstones)
    return f"{shard.name} {shard.num_samples} {shard.sha256} {shard.table_sha256}{removed}"


class Reject(Artifact):
    """A line of data/rejects.jsonl."""

    path: str
    reason: str
    """Short code: not_an_image, truncated, too_many_pixels, ..."""
    detail: str


class Run(Artifact):
    """data/run.json: what rank 0 and the driver know of the finished run."""

    fingerprint: str
    run_id: str | None
    """MLflow's; null when tracking could not be reached."""
    tracking_uri: str
    """Without credentials."""
    index_digest: str
    backbone: str
    num_parameters: int
    num_steps: int
    num_epochs: int
    exported_epoch: int
    """Whose weights are in data/model, counted from 1."""
    ending: str
    """Why training ended where it did."""
    world_size: int
    attempts: int
    train_seconds: float
    images_per_second: float
    """Training samples over the time spent in training steps, validation and checkpoints left out."""
    validation: dict[str, float]
    """Figures of the exported weights on the validation split; empty without one."""


HISTORY_COLUMNS = (
    "epoch", "step", "train_loss", "validation_loss", "validation_top1", "validation_mean_ap", "epochs_without_gain",
    "lr", "images_per_second",
)  # fmt: skip
"""history.csv: a row per epoch; a figure that was not taken is an empty cell. Without gain are epochs in which the
validation score (one of SCORES) was not higher than before, in a row."""


def read_history(path: Path) -> dict[str, list[float]]:
    """The columns of history.csv, top row first; an empty cell is NaN."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float("nan" if row[name] == "" else row[name]) for row in rows] for name in HISTORY_COLUMNS}
    except FileNotFoundError as exc:
        raise ArtifactError(f"{path} does not exist; run `convoy train` first (or `dvc repro`).") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise ArtifactError(
            f"{path} is not a table of numbers with the columns {', '.join(HISTORY_COLUMNS)} ({exc!r}); "
            "make it again with `convoy train`."
        ) from exc


class Registration(Artifact):
    """data/registration.json: the gate's verdict."""

    model_name: str
    version: str
    model_uri: str
    weights_sha256: str
    alias: Literal["champion", "challenger"]
    promoted: bool
    reasons: list[str]
    top1: float | None
    """null of a multi-label model, which has mean_ap instead."""
    mean_ap: float | None = None
    champion_version: str | None
    """After the verdict."""
    run_id: str | None
    tracking_uri: str


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""The sections of params.yaml: one frozen model each, in the order of the file; `training_sections` has the rest.

Every key is required and unknown keys are refused. The docstring under a field gives its unit and its special values.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from pydantic import Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]

CREDENTIALS = re.compile(r"://[^/\s@]*:[^/\s@]+@|https?://[^/\s@]+@")
"""A password in an address, or whoever comes before a web server's name: that may be a token."""


class Section(pydantic.BaseModel):
    """One section of params.yaml. Numbers are numbers and texts are texts: nothing is coerced but int to float."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)

    not_in_fingerprint: ClassVar[frozenset[str]] = frozenset()
    """Fields that change how fast or how safely a run goes, never what comes out of it."""

    @pydantic.field_validator("*")
    @classmethod
    def _check_no_credentials(cls, value: Any) -> Any:
        if isinstance(value, str) and CREDENTIALS.search(value):
            raise ValueError(
                "credentials in an address would go to git, dvc.lock and MLflow; keep them in the environment: "
                "MLFLOW_TRACKING_URI with tracking.uri: null, or the variables that the store knows"
            )
        return value


class Data(Section):
    source: str
    """`demo`, a folder `class/image` or `split/class/image`, a table (.csv, .tsv, .parquet, .jsonl) or WebDataset tars
    (.tar, a pattern, a folder of them); each local or at an address (`s3://`)."""
    image_column: str
    """Tables: the column with an image's path, absolute or relative to the table."""
    label_column: str
    """Tables: the column with the class name, or, of a multi-label set, with a list of them (.jsonl, .parquet), any
    number."""
    label_separator: str | None
    """Tables: what stands between the class names in the texts of a multi-label set, such as `|`; an empty text is no
    class. null where a text is one class."""
    split_column: str | None
    """Tables, and the JSON of tars: the column with `train`, `validation` or `test`; null to split by hash."""
    group_column: str | None
    """Tables, and the JSON of tars: records of one group never straddle two splits; null for none."""
    metadata_columns: list[str]
    """Tables, and the JSON of tars: columns kept with each sample; the report shows its figures per value of each."""

    @pydantic.field_validator("label_separator")
    @classmethod
    def _check_separator(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError(f"{value!r} must hold a character that is no space, such as | or ;, or be null")
        return value


class Demo(Section):
    images_per_class: PositiveInt
    """Drawn X's, and as many O's."""
    seed: int


class Split(Section):
    validation_fraction: Fraction
    """Of all records; of the given training split where the source fixes splits without a validation one. Not looked at
    where there are folds."""
    test_fraction: Fraction
    """Of all records; ignored where the source fixes a test split."""
    near_duplicates_together: bool
    """Pictures that look alike share a split; false divides them like any others, and says under near_leakage what
    straddles."""
    folds: Annotated[int, Field(ge=2, le=100)] | None
    """What is not for testing is cut into so many equal parts by hash; null for none."""
    fold: Annotated[int, Field(ge=0)] | None
    """Which of the folds is the validation split, from 0 on; the others are for training."""
    seed: int

    @pydantic.model_validator(mode="after")
    def _check_fold(self) -> "Split":
        if self.folds is None and self.fold is not None:
            raise ValueError(f"fold={self.fold} needs folds: how many there are; or set fold to null")
        if self.folds is not None and (self.fold is None or self.fold >= self.folds):
            raise ValueError(f"fold={self.fold} must be one of 0 to {self.folds - 1}, since folds={self.folds}")
        return self


class Shards(Section):
    short_side_px: PositiveInt | None
    """Larger images are scaled down to this short side and re-encoded; null shrinks none, and plain
    JPEGs keep their own bytes; see docs/data.md."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    samples_per_shard: PositiveInt
    destination: str | None
    """Address that the tars and their tables go to (`s3://bucket/photos`), under names that belong to their contents;
    null for data/shards."""
    num_workers: PositiveInt | None
    """Processes that decode and write; null for one per core, of this machine or of the cluster."""

    not_in_fingerprint = frozenset({"num_workers"})

    @pydantic.field_validator("destination")
    @classmethod
    def _check_destination(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9+.-]+://[^@/?]+(/[^@?]*)?", value):
            raise ValueError("it must be an address such as s3://bucket/photos, without user, password and query")
        return value


Policy = Literal["ignore", "warn", "fail"]
Finding = Literal[
    "duplicates", "near_duplicates", "contradictory_labels", "contradictory_near_labels", "leakage", "near_leakage",
    "group_leakage", "tiny_images", "dark_images", "blank_images", "rare_classes",
]  # fmt: skip
"""docs/data.md says what each is."""


class Audit(Section):
    max_rejected_fraction: Fraction
    """The shard stage fails when a larger part of the records cannot be decoded."""
    near_duplicate_bits: Annotated[int, Field(ge=0, le=8)] | None
    """Of the 64 of a perceptual hash, how many may differ between pictures that look alike; null looks for none."""
    tiny_below_px: Annotated[int, Field(ge=0)]
    """A shorter side makes an image a tiny one."""
    dark_below: Annotated[float, Field(ge=0.0, le=255.0)]
    """A smaller mean grey level makes an image a dark one."""
    min_training_samples: Annotated[int, Field(ge=0)]
    """A class with fewer is a rare one."""
    policies: dict[Finding, Policy]
    """By finding: `ignore`, `warn` (a line, and data/audit.json) or `fail`; one that is not named warns."""


class Loading(Section):
    global_batch_size: PositiveInt
    """Samples in one optimizer step, over all ranks."""
    lanes: PositiveInt
    """Contiguous ranges of the shuffled shards that are read side by side; divides global_batch_size."""
    shuffle_window_samples: PositiveInt | None
    """Samples that are shuffled together inside a lane; null for the whole lane, and for 16,384 where the shards lie at
    an address."""
    subset_fraction: Annotated[float, Field(gt=0.0, le=1.0)]
    """Part of the training split that is used, of each class alike, for quick experiments; a smaller part lies within a
    larger one, validation and test stay whole."""
    sampling: Literal["uniform", "balanced"]
    """`uniform` uses every sample once an epoch; `balanced` draws every class equally often, in as many steps, and
    needs lanes: 1 and shuffle_window_samples: null."""
    workers_per_rank: Annotated[int, Field(ge=0)]
    """Threads that decode ahead; 0 decodes in the thread that hands batches out."""
    cache_bytes: PositiveInt | None
    """What shards at an address may take of each machine's disk, in the folder that CONVOY_CACHE names; null for
    no limit."""

    decoded_cache_bytes: Annotated[int, Field(ge=0)]
    """What decoded training images may take of each machine's disk, there too, so that later epochs decode none of
    those that fit; 0 keeps none."""

    not_in_fingerprint = frozenset({"workers_per_rank", "cache_bytes", "decoded_cache_bytes"})


class Augment(Section):
    crop_scale: tuple[Fraction, Fraction]
    """Area of the random crop as a fraction of the image: least and most; [1.0, 1.0] with neither flips nor
    shifts trains on the evaluation crop."""
    crop_ratio: tuple[float, float]
    """Width over height of the random crop: least and most."""
    horizontal_flip: bool
    vertical_flip: bool
    shift_fraction: Annotated[float, Field(ge=0.0, le=0.5)]
    """The crop moves up or down and left or right by up to this part of its side, the border mirrored; 0.125 is what
    CIFAR-10 is mostly trained with."""
    color_jitter: Fraction
    """Brightness, contrast and saturation are each scaled by up to 1 ± this; 0 where the images are not RGB."""
    policy: Literal["none", "randaugment", "trivialaugment", "augmix"]
    """Automatic augmentation after the crop, with torchvision's operations and ranges; `none` where the images are not
    RGB."""
    policy_num_ops: Annotated[int, Field(ge=1, le=8)]
    """RandAugment: operations one after the other."""
    policy_magnitude: Annotated[int, Field(ge=0, le=30)]
    """RandAugment: strength of each operation."""
    erase_probability: Fraction
    """Random erasing: how often a box of 2 to 33 % of the image is painted in its mean colour."""
    mixup_alpha: Annotated[float, Field(ge=0.0)]
    """Mixup: two images are blended, by a share from Beta(alpha, alpha); 0 for none, 0.2 is usual."""
    cutmix_alpha: Annotated[float, Field(ge=0.0)]
    """Cutmix: a box of one image goes into another, its area from Beta(alpha, alpha); 0 for none, 1.0 is usual. With
    both, each pair of images has one of the two."""
    mix_off_epochs: Annotated[int, Field(ge=0)]
    """Last epochs in which nothing is mixed."""

    def of_one_image(self) -> dict[str, Any]:
        """What is done to an image on its own, by name: all but mixing."""
        return self.model_dump(exclude={"mixup_alpha", "cutmix_alpha", "mix_off_epochs"})

    @pydantic.field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _check_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0.0 < value[0] <= value[1]:
            raise ValueError(f"{list(value)} must be the least and the most, both over 0, in this order")
        return value


class Evaluation(Section):
    batch_size: PositiveInt
    top_k: PositiveInt
    """Classes kept with their probabilities for each test sample."""
    num_mistakes: Annotated[int, Field(ge=0)]
    """Surest mistakes shown in the report."""


class Registry(Section):
    model_name: str
    min_top1: Fraction
    """The gate: a model under this test top-1 never becomes champion."""
    min_mean_ap: Fraction
    """The same of a multi-label model, by its test mAP."""


class Cluster(Section):
    address: str | None
    """A Ray cluster's address, for sharding and training; null trains with Ray on this machine and shards without it
    (inside a Ray job: the job's own cluster for both)."""
    num_workers: int | tuple[int, int]
    """Ranks; 0 trains in the stage's own process without Ray. [least, most]: as many as there is room for, fewer after
    a loss and more once nodes have joined."""
    max_failures: Annotated[int, Field(ge=0)]
    """Restarts after a lost worker or node before the stage gives up; while sharding, of each piece of the work."""
    hang_seconds: Annotated[float, Field(gt=0.0)]
    """A rank that says nothing for so long is taken for lost. More than the slowest checkpoint takes."""
    wait_seconds: Annotated[float, Field(ge=0.0)]
    """How long ranks wait for a running cluster to have room for them: for nodes that join, or replace lost ones.
    Sharding waits so while there is no core at all."""
    price_per_gpu_hour: Annotated[float, Field(ge=0.0)] | None
    """What `convoy plan` reckons a rank's hour at, in whatever currency; null for no reckoning."""
    storage: str | None
    """Folder that every node sees: runs and, in a Ray job, the stages' outputs go there; null for the repository."""

    not_in_fingerprint = frozenset({"address", "max_failures", "hang_seconds", "wait_seconds", "price_per_gpu_hour"})

    @pydantic.field_validator("num_workers", mode="before")
    @classmethod
    def _check_num_workers(cls, value: Any) -> Any:
        is_range = isinstance(value, tuple)
        bounds = value if is_range else (value, value)
        are_counts = all(isinstance(each, int) and not isinstance(each, bool) for each in bounds)
        if not (are_counts and (1 if is_range else 0) <= bounds[0] <= bounds[1]):
            given = list(value) if is_range else value
            raise ValueError(f"{given!r} is no number of ranks: one, 0 or more, or [least, most] from 1 up, as [2, 8]")
        return value

    @property
    def least_ranks(self) -> int:
        return self._bounds[0]

    @property
    def most_ranks(self) -> int:
        return self._bounds[1]

    @property
    def _bounds(self) -> tuple[int, int]:
        if isinstance(self.num_workers, tuple):
            return self.num_workers
        return max(1, self.num_workers), max(1, self.num_workers)


class Tracking(Section):
    uri: str | None
    """MLflow server; null for MLFLOW_TRACKING_URI or, without it, sqlite in cluster.storage or the repository."""
    experiment: str

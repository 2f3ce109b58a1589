"""params.yaml, read and checked as a whole: every problem is told at once, with the valid keys.

A stage's function names the sections it reads as its arguments; `read` returns exactly those.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import pydantic
import yaml

from pipeline.errors import ParamsError
from pipeline.sections import (
    Audit,
    Augment,
    Cluster,
    Data,
    Demo,
    Evaluation,
    Loading,
    Registry,
    Section,
    Shards,
    Split,
    Tracking,
)
from pipeline.training_sections import Model, Optimizer, Schedule, Training, Transfer
from pipeline.wording import counted

__all__ = [
    "Audit",
    "Augment",
    "Cluster",
    "Data",
    "Demo",
    "Evaluation",
    "Loading",
    "Model",
    "Optimizer",
    "Params",
    "Registry",
    "Schedule",
    "Section",
    "Shards",
    "Split",
    "Tracking",
    "Training",
    "Transfer",
    "for_fingerprint",
    "load",
    "parse",
    "read",
    "worlds",
]


class _Loader(yaml.SafeLoader):
    """Takes 3e-3 for a number, as YAML 1.2 and DVC do; PyYAML's 1.1 wants 3.0e-3."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


class Params(Section):
    """The whole of params.yaml, in the order of the file."""

    data: Data
    demo: Demo
    split: Split
    shards: Shards
    audit: Audit
    loading: Loading
    augment: Augment
    model: Model
    transfer: Transfer
    optimizer: Optimizer
    schedule: Schedule
    training: Training
    evaluation: Evaluation
    registry: Registry
    cluster: Cluster
    tracking: Tracking

    @pydantic.model_validator(mode="after")
    def _check_across_sections(self) -> "Params":
        loading = self.loading
        if loading.global_batch_size % loading.lanes:
            raise ValueError(
                f"loading.global_batch_size={loading.global_batch_size} is not divisible by "
                f"loading.lanes={loading.lanes}; use lanes: 1 or a divisor"
            )
        if loading.sampling == "balanced":
            self._check_balanced()
        for num_ranks in (self.cluster.least_ranks, self.cluster.most_ranks):
            problem = _problem_of_sharing(num_ranks, loading, self.augment, self.training)
            if problem:
                raise ValueError(problem)
        if self.transfer.mode != "full" and self.model.weights == "none":
            raise ValueError(
                f"transfer.mode={self.transfer.mode} would leave layers at the random values of model.weights=none; "
                "name weights to start from, or use transfer.mode: full"
            )
        if self.model.mirror and not self.augment.horizontal_flip:
            raise ValueError(
                "model.mirror=true asks the network of mirror images, and augment.horizontal_flip=false shows it none; "
                "set both, or neither"
            )
        self._check_progressive()
        self._check_fsdp2()
        if self.split.validation_fraction + self.split.test_fraction >= 1.0:
            raise ValueError(
                f"split.validation_fraction={self.split.validation_fraction} and split.test_fraction="
                f"{self.split.test_fraction} leave nothing to train on; their sum must be under 1"
            )
        return self

    def _check_progressive(self) -> None:
        sides, epochs = self.training.progressive_px, self.training.epochs
        if sides is None:
            return
        if list(sides) != sorted(sides) or sides[-1] > self.model.input_px:
            raise ValueError(
                f"training.progressive_px={list(sides)} must rise, to model.input_px={self.model.input_px} at most; "
                "larger images than evaluation sees would cost time and fit it less"
            )
        if len(sides) > epochs:
            raise ValueError(
                f"training.progressive_px={list(sides)} lists {len(sides)} sides for training.epochs={epochs}; each "
                "needs an epoch of its own"
            )

    def _check_fsdp2(self) -> None:
        if self.training.strategy != "fsdp2":
            return
        for key, value, refused, remedy in (
            ("training.compile", self.training.compile, True, "false"),
            ("training.precision", self.training.precision, "fp16", "bf16 or fp32"),
            ("transfer.mode", self.transfer.mode, "gradual", "full or probe"),
        ):
            if value == refused:
                raise ValueError(
                    f"{key}={value} does not go with training.strategy=fsdp2, which splits weights over the ranks once "
                    f"and computes with a block of them at a time; use {remedy}, or training.strategy: ddp"
                )

    def _check_balanced(self) -> None:
        if self.loading.lanes > 1 or self.loading.shuffle_window_samples is not None:
            raise ValueError(
                f"loading.lanes={self.loading.lanes} and loading.shuffle_window_samples="
                f"{self.loading.shuffle_window_samples} order the samples by shard, and loading.sampling=balanced "
                "draws them from all shards; use lanes: 1 and shuffle_window_samples: null"
            )
        if self.training.balance != "none":
            raise ValueError(
                f"loading.sampling=balanced and training.balance={self.training.balance} would make up for rare "
                "classes twice; use sampling: uniform or balance: none"
            )


def worlds(cluster: Cluster, loading: Loading, augment: Augment, training: Training) -> list[int]:
    """The numbers of ranks that cluster.num_workers allows and that can share a step's samples, largest first."""
    return [
        num_ranks
        for num_ranks in range(cluster.most_ranks, cluster.least_ranks - 1, -1)
        if _problem_of_sharing(num_ranks, loading, augment, training) is None
    ]


def _problem_of_sharing(num_ranks: int, loading: Loading, augment: Augment, training: Training) -> str | None:
    """Why so many ranks cannot share the samples of a step; None where they can."""
    of_all, num_pieces = loading.global_batch_size, training.accumulate_steps
    of_rank = of_all // num_ranks
    if of_all % num_ranks:
        near = " or ".join(str(size) for size in (of_rank * num_ranks, (of_rank + 1) * num_ranks) if size)
        return (
            f"loading.global_batch_size={of_all} is not divisible by the {num_ranks} ranks asked for in "
            f"cluster.num_workers; use {near}"
        )
    if (augment.mixup_alpha or augment.cutmix_alpha) and of_rank % 2:
        return (
            f"augment.mixup_alpha={augment.mixup_alpha} and augment.cutmix_alpha={augment.cutmix_alpha} mix images in "
            f"pairs, and each of the {num_ranks} ranks has {of_rank} of loading.global_batch_size={of_all}; use a "
            f"multiple of {2 * num_ranks}, or 0 for both"
        )
    if of_rank % num_pieces:
        return (
            f"training.accumulate_steps={num_pieces} does not divide the {of_rank} samples that each of {num_ranks} "
            f"ranks has of loading.global_batch_size={of_all}; use a divisor"
        )
    return None


def read(path: Path, sections: Iterable[str] | None = None) -> dict[str, Section]:
    """Sections by name, all of them when `sections` is None. The whole file is checked either way.

    Raises ParamsError, naming every problem at once with the valid ones.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ParamsError(f"{path} does not exist; run in the repository's root, where params.yaml lies.") from exc
    except UnicodeDecodeError as exc:
        raise ParamsError(f"{path} is not YAML: {exc}") from exc
    return parse(text, path, sections)


def load(text: str) -> object:
    """What the YAML holds, numbers as YAML 1.2 has them. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def parse(text: str, path: Path, sections: Iterable[str] | None = None) -> dict[str, Section]:
    """As `read`, of a text; `path` is for messages."""
    try:
        content = load(text)
    except yaml.YAMLError as exc:
        mark, problem = getattr(exc, "problem_mark", None), getattr(exc, "problem", None) or exc
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(f"{path}{line} is not YAML: {problem}; look at indentation and quotes there.") from exc
    if not isinstance(content, dict):
        raise ParamsError(
            f"{path} must hold sections ({', '.join(Params.model_fields)}), not {type(content).__name__}."
        )
    try:
        params = Params.model_validate(_tuples(content))
    except pydantic.ValidationError as exc:
        lines = [f"{path} has {counted(exc.error_count(), 'problem')}:"]
        raise ParamsError("\n".join(lines + [f"  {_explain(error)}" for error in exc.errors()])) from exc
    names = Params.model_fields if sections is None else sections
    return {name: getattr(params, name) for name in names}


def for_fingerprint(*sections: Section) -> dict[str, dict]:
    """What of these sections decides the outcome of a run, as plain values for hashing."""
    return {type(s).__name__.lower(): s.model_dump(exclude=set(s.not_in_fingerprint), mode="json") for s in sections}


def _tuples(value: object) -> object:
    """YAML's ranges as the tuples that strict models want."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list) and len(value) == 2 and all(isinstance(item, int | float) for item in value):
        return tuple(value)
    return value


def _explain(error: dict) -> str:
    where = ".".join(str(part) for part in error["loc"])
    parent = Params
    for part in error["loc"][:-1]:
        field = parent.model_fields.get(part) if isinstance(parent, type) and issubclass(parent, Section) else None
        parent = field.annotation if field is not None else None
    keys = list(parent.model_fields) if isinstance(parent, type) and issubclass(parent, Section) else []
    valid = ", ".join(keys)
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), keys, n=1)
        return f"{where} is not a key; {f'did you mean {near[0]}? ' if near else ''}the valid ones are {valid}."
    if error["type"] == "missing":
        return f"{where} is missing; {'this section has' if len(error['loc']) > 1 else 'the sections are'} {valid}."
    if error["type"] == "value_error":
        return f"{where + ': ' if where else ''}{error['ctx']['error']}."
    return f"{where}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."

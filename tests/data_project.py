"""Scan and shard as their stages do it, in a folder of a test's own, and what came of every record."""

import json
import os
import tarfile
from pathlib import Path
from typing import NamedTuple, get_args

from projects import REPOSITORY

from pipeline import params
from pipeline.artifacts import Index, Scan
from pipeline.sections import Policy
from pipeline.stages import layout
from pipeline.stages.scan import scan
from pipeline.stages.shard import shard
from pipeline.stages.verify import verify

DEFAULTS = {"max_rejected_fraction": 1.0, "validation_fraction": 0.0, "test_fraction": 0.0, "num_workers": 1}


class Outcome(NamedTuple):
    index: Index
    samples: dict[str, dict]
    """By the path of the source: what the sample's JSON says, and `label`, `split`, `image`."""
    rejects: dict[str, str]
    """Reasons by path."""
    ignored: dict[str, int]
    audit: dict


def run(folder: Path, source: str = "photos", **changes: object) -> Outcome:
    """What `stages` left in `folder`; everything adds up."""
    stages(folder, source, **changes)
    verify()
    return outcome()


def stages(folder: Path, source: str = "photos", **changes: object) -> None:
    """Scan and shard in `folder`, which becomes the working directory, with single params changed; a finding's name
    changes its policy."""
    os.chdir(folder)
    changes = {**DEFAULTS, "source": source, **changes}
    sections = params.read(REPOSITORY / "params.yaml")

    def section(name: str):
        fields = {}
        if name == "audit":
            fields["policies"] = {key: value for key, value in changes.items() if value in get_args(Policy)}
        fields |= {key: value for key, value in changes.items() if key in type(sections[name]).model_fields}
        return sections[name].model_copy(update=fields)

    scan(section("data"), section("demo"))
    shard(*map(section, ("data", "split", "shards", "audit", "cluster")))


def outcome() -> Outcome:
    index = Index.read(layout.INDEX, "shard")
    counts = Scan.read(layout.SCAN, "scan")
    rejects = [json.loads(line) for line in layout.REJECTS.read_text(encoding="utf-8").splitlines()]
    samples = _samples(index)
    paths = [sample["path"] for sample in samples] + [reject["path"] for reject in rejects]
    assert len(set(paths)) == len(paths) == counts.num_records == index.num_records
    assert len(rejects) == index.num_rejects
    return Outcome(
        index,
        {sample["path"]: sample for sample in samples},
        {reject["path"]: reject["reason"] for reject in rejects},
        counts.ignored,
        json.loads(layout.AUDIT.read_text(encoding="utf-8")),
    )


def _samples(index: Index) -> list[dict]:
    samples = []
    for split, shards in index.splits.items():
        for each in shards:
            with tarfile.open(layout.SHARDS / f"{each.name}.tar") as tar:
                members = {member.name: tar.extractfile(member).read() for member in tar}
            keys = sorted({name.partition(".")[0] for name in members})
            assert len(members) == 3 * len(keys)
            for key in keys:
                facts = json.loads(members[f"{key}.json"])
                image = members[f"{key}.{index.image_extension}"]
                samples.append(
                    {**facts, "key": key, "split": split, "image": image, "label": int(members[f"{key}.cls"])}
                )
    assert len({sample["key"] for sample in samples}) == len(samples)
    return samples

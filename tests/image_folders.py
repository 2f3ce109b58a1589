"""Small folders of real JPEG files, and a way to shard them in one line."""

import contextlib
import hashlib
import io
import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from pipeline.artifacts import Index, Scan
from pipeline.findings import EXPLANATIONS
from pipeline.sample_table import read_sample_table
from pipeline.sharding.audit import AuditRule
from pipeline.sharding.build import Built, ShardForm, SplitRule, build_shard_set
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.resume import open_work
from pipeline.sharding.scan import image_root, scan_source
from pipeline.sharding.tables import TableColumns
from pipeline.sharding.workers import LocalWorkers

SPLIT_RULE = SplitRule(0.2, 0.2, 0)
FORM = ShardForm(None, 90, 8)
AUDIT_RULE = AuditRule(0.5, 6, 0, 0.0, 0, dict.fromkeys(EXPLANATIONS, "warn"))
BY_FOLDERS = TableColumns("image", "label", None, None, ())

ODD_NAMES = [
    b"with space.jpg",
    "e\u0301.jpg".encode(),
    "\u00e9.jpg".encode(),
    "\u05e9\u05dc\u05d5\u05dd.jpg".encode(),
    b"new\nline.jpg",
    b"'quotes\".jpg",
    b"<script>alert(1)<.jpg",
    b"=cmd().jpg",
    b"+1.jpg",
    b"@sum.jpg",
    b"comma,semicolon;.jpg",
    b"\xff\xfe no utf8.jpg",
    b"back\\slash \\xff.jpg",
    b"a.b.c.jpg",
    b".leading dot.jpg",
    b"__x__.jpg",
    b"Case.jpg",
    b"case.jpg",
    b"x" * 251 + b".jpg",
    b"[bold]markup[.jpg",
]
"""Of files; each would be lost, merged with another or run as something by somebody careless."""


def jpeg(content: int, height: int = 16, width: int = 16) -> bytes:
    """Equal bytes for equal arguments, others for others."""
    image_HWC = np.random.default_rng(content).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(image_HWC, quality=90)


def fill(root: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def two_classes(root: Path, num_per_class: int = 30) -> Path:
    names = [f"{label}/{number:03d}.jpg" for label in ("cat", "dog") for number in range(num_per_class)]
    return fill(root, {name: jpeg(number) for number, name in enumerate(names)})


@contextlib.contextmanager
def silent(doing: str, total: int):
    yield lambda count: None


def scan(source: Path | str, columns: TableColumns = BY_FOLDERS) -> tuple[pa.Table, Scan]:
    """The manifest as one table, and its counts."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.parquet"
        counts = scan_source(str(source), columns, path, lambda count: None)
        return pq.read_table(path), counts


def scanned(source: Path, path: Path, columns: TableColumns = BY_FOLDERS) -> Manifest:
    scan_source(str(source), columns, path, lambda count: None)
    return Manifest(path)


def build(
    source: Path,
    folder: Path,
    *,
    columns: TableColumns = BY_FOLDERS,
    rule: SplitRule = SPLIT_RULE,
    form: ShardForm = FORM,
    num_workers: int = 1,
    audit_rule: AuditRule = AUDIT_RULE,
    former: Path | None = None,
) -> Built:
    """The source sharded into `folder`, which may grow from the set in the folder `former`."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = scanned(source, folder.with_name(f".{folder.name}.manifest"), columns)
    root = image_root(str(source))
    work = open_work(folder.with_name(f".{folder.name}.work"))
    index = former / "index.json" if former else None
    with LocalWorkers(num_workers) as workers:
        return build_shard_set(folder, work, manifest, root, rule, form, audit_rule, workers, silent, index)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def used_samples(folder: Path) -> dict[str, tuple[str, str, int]]:
    """By path: split, sha256 and key of the samples that a reader of the index is given; each exactly once."""
    index, found = Index.read(folder / "index.json", "shard"), {}
    for split, shards in index.splits.items():
        for shard in shards:
            content = (folder / f"{shard.name}.tar").read_bytes()
            for row in read_sample_table(folder / "index.json", shard):
                facts = json.loads(content[row["json_offset"] :][: row["json_bytes"]])
                image = content[row["image_offset"] :][: row["image_bytes"]]
                assert hashlib.sha256(image).hexdigest() == facts["sha256"], "FORM keeps every image's own bytes"
                assert facts["path"] not in found
                assert index.classes[row["label"]] == facts["path"].split("/")[-2]
                found[facts["path"]] = (split, facts["sha256"], int(row["key"]))
    assert len({key for _, _, key in found.values()}) == len(found) == index.num_records - index.num_rejects
    return found


def smooth(content: int, quality: int) -> bytes:
    """A picture whose copies at other qualities look alike."""
    small = np.random.default_rng(content).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(cv2.resize(small, (48, 48), interpolation=cv2.INTER_CUBIC), quality=quality)

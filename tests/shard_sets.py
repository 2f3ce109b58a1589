"""Small shard sets for tests, written with tarfile alone: the loader is tested against the format, not the writer."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg

from pipeline import artifacts, sample_table


def write(
    folder: Path,
    shard_sizes: dict[str, list[int]],
    *,
    num_classes: int = 2,
    side_px: int = 24,
    first_key: int = 0,
    labels: list[int] | list[list[int]] | None = None,
    num_channels: int = 3,
    pixel_dtype: str = "uint8",
) -> Path:
    """The path of the index over shards of these sizes by split. A class is a colour with noise: learnable at once.

    Samples are of each class in turn, in every split, or of `labels`, one a sample of all splits; lists of them make a
    multi-label set, whose images have the colour of their first label. Other channels than those of RGB pictures are
    kept as arrays.
    """
    classes = [f"class-{label}" for label in range(num_classes)]
    random = np.random.default_rng(0)
    colors = random.integers(40, 216, (num_classes, num_channels))
    is_picture = (num_channels, pixel_dtype) == (3, "uint8")
    brightest = np.iinfo(pixel_dtype).max
    key = first_key
    splits: dict[str, list[artifacts.Shard]] = {}
    for split in artifacts.SPLITS:
        splits[split] = []
        first_of_split = key
        for number, size in enumerate(shard_sizes.get(split, [])):
            places = range(key, key + size)
            of_shard = [
                (place - first_of_split) % num_classes if labels is None else labels[place - first_key]
                for place in places
            ]
            seen = [label if isinstance(label, int) else [*label, 0][0] for label in of_shard]
            images = [
                (
                    np.clip(colors[label] + random.normal(0, 12, (side_px, side_px, num_channels)), 0, 255)
                    * brightest
                    / 255
                ).astype(pixel_dtype)
                for label in seen
            ]
            splits[split].append(_write_shard(folder, split, number, key, of_shard, images, classes))
            key += size
    every = [shard for split in splits.values() for shard in split]
    index = artifacts.Index(
        classes=classes,
        multi_label=labels is not None and isinstance(labels[0], list),
        image_extension="jpg" if is_picture else "npy",
        num_channels=num_channels,
        pixel_dtype=pixel_dtype,
        mean=[0.5] * num_channels,
        std=[0.25] * num_channels,
        metadata_columns=["parity"],
        splits=splits,
        num_records=key - first_key,
        num_rejects=0,
        digest=artifacts.index_digest(classes, every),
    )
    index.write(folder / "index.json")
    return folder / "index.json"


def change(index_path: Path, **fields: object) -> artifacts.Index:
    """The index with other fields, written, with the digest that goes with them."""
    index = artifacts.Index.read(index_path, "shard").model_copy(update=fields)
    every = [shard for split in index.splits.values() for shard in split]
    index = index.model_copy(update={"digest": artifacts.index_digest(index.classes, every)})
    index.write(index_path)
    return index


def _write_shard(folder: Path, split: str, number: int, key: int, labels: list, images, classes: list[str]):
    multi_label = bool(labels) and isinstance(labels[0], list)
    name = f"{split}/{split}-{number:06d}"
    path = folder / f"{name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for place, (label, image) in enumerate(zip(labels, images, strict=True)):
            stem = f"{key + place:09d}"
            side_px = image.shape[0]
            detail = {
                "path": f"{label if multi_label else classes[label]}/{stem}.jpg",
                "sha256": "",
                "width": side_px,
                "height": side_px,
                "group": None,
                "metadata": {"parity": ("even", "odd")[place % 2]},
            }
            extension = "jpg" if (image.shape[2], image.dtype) == (3, np.uint8) else "npy"
            of_label = {} if multi_label else {"cls": str(label).encode()}
            detail |= {"labels": label} if multi_label else {}
            members = {
                extension: _encoded(image, extension),
                **of_label,
                "json": json.dumps(detail, sort_keys=True).encode(),
            }
            offsets = {}
            for name_of_member, data in members.items():
                info = tarfile.TarInfo(f"{stem}.{name_of_member}")
                info.size = len(data)
                offsets[name_of_member] = (tar.offset + 512, len(data))
                tar.addfile(info, io.BytesIO(data))
            hot_K = [int(multi_label and each in label) for each in range(len(classes))]
            packed = np.packbits(np.array(hot_K, np.uint8), bitorder="little")
            rows.append((key + place, *offsets[extension], *offsets["json"], packed if multi_label else label))
    dtype = sample_table.multi_label_dtype(len(classes)) if multi_label else sample_table.SAMPLE_DTYPE
    np.save(folder / f"{name}.npy", np.array(rows, dtype))
    return artifacts.Shard(
        name=name,
        num_samples=len(rows),
        num_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        table_sha256=artifacts.file_sha256(folder / f"{name}.npy"),
        class_counts=_counts(labels, len(classes)),
    )


def _counts(labels: list, num_classes: int) -> list[int]:
    flat = [each for label in labels for each in (label if isinstance(label, list) else [label])]
    return np.bincount(np.array(flat, np.int64), minlength=num_classes).tolist()


def _encoded(image: np.ndarray, extension: str) -> bytes:
    if extension == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=90)
    out = io.BytesIO()
    np.save(out, image)
    return out.getvalue()

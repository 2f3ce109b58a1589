"""Labelled images in existing WebDataset tars: the files of one key are a sample. Nothing is extracted.

Members are taken by their extension alone: images, and `cls`, `json` or `txt` for the label. A member's bytes are
found again by their place in the tar.
"""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pipeline.artifacts import SPLITS
from pipeline.errors import SourceError
from pipeline.path_names import escape_path
from pipeline.sharding.folders import IMAGE_EXTENSIONS
from pipeline.sharding.manifest import Record
from pipeline.sharding.reading import member_path
from pipeline.sharding.tables import SPLIT_OF_VALUE, TableColumns, plain, text_of

LABEL_EXTENSIONS = ("cls", "json", "txt")
MAX_LABEL_BYTES = 2**20
SAMPLES_PER_REPORT = 1000
BYTES_AT_ONCE = 2**20


class Tar(NamedTuple):
    path: str
    """Relative to the root of the set."""
    split: str | None
    stamp: str
    open: Callable[[], Any]
    """A file to read from anywhere."""


class _Image(NamedTuple):
    member: str
    offset: int
    num_bytes: int


def find_in_tars(
    tars: list[Tar], columns: TableColumns, ignored: Counter, advance: Callable[[int], None]
) -> Iterator[Record]:
    """The tars' records, in their order; `ignored` counts, by reason, what is none.

    Raises SourceError for a tar that is damaged, cut short or several in one file, and for a label that is no text.
    """
    num_samples = 0
    for tar in tars:
        for image, labels in _samples(tar, ignored):
            num_samples += 1
            if num_samples % SAMPLES_PER_REPORT == 0:
                advance(SAMPLES_PER_REPORT)
            record = _record(tar, image, labels, columns)
            if record is None:
                ignored["sample_without_a_label"] += 1
            else:
                yield record
    advance(num_samples % SAMPLES_PER_REPORT)


def _samples(tar: Tar, ignored: Counter) -> Iterator[tuple[_Image, dict[str, bytes]]]:
    """Images with the label members of their key."""
    key, image, labels, seen = None, None, {}, set()
    for member, read in _members(tar, ignored):
        stem, _, extension = os.path.basename(member.name).partition(".")  # noqa: PTH119 - a key is no path
        extension, member_key = extension.lower(), (os.path.dirname(member.name), stem)  # noqa: PTH120
        if member_key != key or extension in seen:  # a repeated extension begins another sample of the same name
            if image is not None:
                yield image, labels
            elif seen:
                ignored["sample_without_an_image"] += 1
            key, image, labels, seen = member_key, None, {}, set()
        seen.add(extension)
        if f".{extension}".encode() in IMAGE_EXTENSIONS and (image is None or image.member.lower().endswith(".npy")):
            # An array beside a picture is something else of the sample: a mask, an embedding.
            ignored["unknown_extension"] += image is not None
            image = _Image(member.name, member.offset_data, member.size)
        elif extension in LABEL_EXTENSIONS and member.size <= MAX_LABEL_BYTES:
            labels[extension] = read()
        else:
            ignored["unknown_extension"] += 1
    if image is not None:
        yield image, labels
    elif seen:
        ignored["sample_without_an_image"] += 1


def _members(tar: Tar, ignored: Counter) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    with tar.open() as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # tarfile remembers them all otherwise
                    if member.isreg():
                        yield member, archive.extractfile(member).read
                    elif not member.isdir():
                        ignored["not_a_regular_file"] += 1
                end = archive.offset
        except tarfile.TarError as exc:
            raise SourceError(f"{tar.path} is no whole tar ({exc}); make or fetch it again.") from exc
        _check_end(file, end, tar.path)


def _check_end(file: Any, end: int, path: str) -> None:
    """Raises SourceError where tarfile took something else for the end of the tar: a damaged header, the end of the
    file, or a block of zeros with members behind it."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise SourceError(
            f"{path} is cut short or damaged at byte {end}: there is no end-of-archive mark; make or fetch it again."
        )
    position = end + tarfile.BLOCKSIZE
    while padding := file.read(BYTES_AT_ONCE):
        if num_more := len(padding.lstrip(b"\0")):
            raise SourceError(
                f"{path} ends at byte {end} with an end-of-archive mark, and goes on at byte "
                f"{position + len(padding) - num_more}; make or fetch it again, or, where tars were put behind one "
                "another with `cat`, give them one by one."
            )
        position += len(padding)


def _record(tar: Tar, image: _Image, labels: dict[str, bytes], columns: TableColumns) -> Record | None:
    member = escape_path(image.member.encode("utf-8", "surrogateescape"))
    where = f"{tar.path}, {member}"
    facts = _facts(labels, where)
    label = _text(labels.get("cls"), where) or _label(facts.get(columns.label), where)
    label = _text(labels.get("txt"), where) if label is None else label
    if label == "":
        return None
    split = tar.split or (_split(facts.get(columns.split), where) if columns.split else None)
    return Record(
        path=member_path(tar.path, member, image.offset, image.num_bytes),
        class_name=label,
        split=split,
        group=(_word(facts.get(columns.group), where) or None) if columns.group else None,
        num_bytes=image.num_bytes,
        stamp=tar.stamp,
        metadata=json.dumps({name: plain(facts.get(name)) for name in columns.metadata}, sort_keys=True),
    )


def _facts(labels: dict[str, bytes], where: str) -> dict:
    if "json" not in labels:
        return {}
    try:
        facts = json.loads(labels["json"])
    except ValueError as exc:
        raise SourceError(f"{where} has a json member that is not JSON ({exc}); mend the tar.") from exc
    return facts if isinstance(facts, dict) else {}


def _text(data: bytes | None, where: str) -> str:
    try:
        return (data or b"").decode("utf-8").strip()
    except UnicodeDecodeError as exc:
        raise SourceError(f"{where} has a label that is not UTF-8 ({exc}); mend the tar.") from exc


def _label(value: object, where: str) -> str | tuple[str, ...] | None:
    """None where it says nothing; a list of classes may be empty."""
    if not isinstance(value, list):
        return _word(value, where) or None
    names = tuple(_word(each, where) for each in value)
    if "" in names:
        raise SourceError(f"{where} has the labels {value!r} in its json member; each must be a text or a number.")
    return names


def _word(value: object, where: str) -> str:
    return (text_of(value, where) or "").strip() if isinstance(value, str | int | float) else ""


def _split(value: object, where: str) -> str | None:
    text = _word(value, where).lower()
    if text and text not in SPLIT_OF_VALUE:
        raise SourceError(f"{where} has the split {value!r}; it must be {', '.join(SPLITS)} or empty.")
    return SPLIT_OF_VALUE.get(text)

"""Row 16: what is no image, or a damaged one: rejected with reason and path, counted, and too many fail the stage."""

import io
import os
import pickle

import data_project
import numpy as np
import pytest
from image_folders import fill, jpeg
from PIL import Image

from pipeline.errors import SourceError

PIXELS_HWC = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def saved(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS_HWC).save(out, kind)
    return out.getvalue()


def with_a_bad_checksum() -> bytes:
    data = bytearray(saved("PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    return bytes(data)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("canary",)


BAD = {
    "cat/empty.jpg": (b"", "empty_file"),
    "cat/text.jpg": (b"a shopping list", "not_an_image"),
    "cat/page.png": (b"<!doctype html><html></html>", "not_an_image"),
    "cat/cut.jpg": (jpeg(1)[:-50], "truncated"),
    "dog/cut.png": (saved("PNG")[:-30], "truncated"),
    "dog/checksum.png": (with_a_bad_checksum(), "damaged"),
    "dog/pickle.jpg": (pickle.dumps(Bomb()), "not_an_image"),
}
WRONG_EXTENSION = {
    "cat/really_png.jpg": saved("PNG"),
    "dog/really_jpeg.png": jpeg(2),
    "dog/really_webp.gif": saved("WEBP"),
}
GOOD = {f"{label}/{number}.jpg": jpeg(10 + number) for label in ("cat", "dog") for number in range(5)}


def test_each_is_rejected_with_its_reason_and_the_counts_add_up(tmp_path):
    fill(tmp_path / "photos", {**GOOD, **WRONG_EXTENSION, **{name: data for name, (data, _) in BAD.items()}})
    found = data_project.run(tmp_path)
    assert found.rejects == {name: reason for name, (_, reason) in BAD.items()}
    assert found.samples.keys() == GOOD.keys() | WRONG_EXTENSION.keys(), "content decides, not the extension"
    assert found.audit["rejects_by_reason"] == {"damaged": 1, "empty_file": 1, "not_an_image": 3, "truncated": 2}
    assert not (tmp_path / "canary").exists()


def test_too_many_fail_the_stage(tmp_path):
    fill(tmp_path / "photos", {**GOOD, **{name: data for name, (data, _) in BAD.items()}})
    with pytest.raises(SourceError, match=r"7 of 17 images cannot be used, more than audit.max_rejected_fraction=0.4"):
        data_project.run(tmp_path, max_rejected_fraction=0.4)
    assert not (tmp_path / "data/shards").exists()
    assert len((tmp_path / "data/rejects.jsonl").read_text().splitlines()) == len(BAD)

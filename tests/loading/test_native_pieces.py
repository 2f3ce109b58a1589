"""Batches whose pieces native code makes: the pixels, the errors and the figures of those that Python makes."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import shard_sets
import simplejpeg
import torch
from PIL import Image

from pipeline.errors import ArtifactError
from pipeline.imaging import crops, region
from pipeline.imaging.region import Native
from pipeline.loading import assembly, encoded
from pipeline.loading.augment import Augmentation
from pipeline.loading.batches import split_batches, training_batches
from pipeline.loading.kept import open_decoded
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

pytestmark = pytest.mark.skipif(not crops.native().is_used, reason=f"no native code: {crops.native().why}")

CROPS = Augmentation((0.05, 1.0), (0.75, 4 / 3), True, True, 0.0)
INPUT_PX = 48
NOISE_HWC = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)


def any_image(number):
    """What a shard can hold, most of it ordinary: sizes on both sides of the output's, large ones, and what is left to
    Python."""
    random = np.random.default_rng(number)
    height, width = random.integers(1, 300, 2) if number % 3 else random.integers(20, 70, 2)
    image_HWC = np.ascontiguousarray(NOISE_HWC[:height, :width])
    if number % 5:
        sampling = ("444", "422", "420", "Gray")[number % 4]
        return simplejpeg.encode_jpeg(image_HWC, quality=90, colorsubsampling=sampling)
    kind, mode, options = [
        ("JPEG", "RGB", {"exif": bytes.fromhex("45786966000049492a00080000000100120103000100000006000000")}),
        ("JPEG", "CMYK", {}), ("PNG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}),
    ][number // 5 % 5]  # fmt: skip
    out = io.BytesIO()
    Image.fromarray(image_HWC).convert(mode).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Shards of images that a function gives by number."""

    def written(image_of):
        numbers = iter(range(1_000))
        monkeypatch.setattr(shard_sets, "_encoded", lambda _image, _extension: image_of(next(numbers)))
        return SplitReader(shard_sets.write(tmp_path, {"train": [30, 25, 20]}), "train")

    return written


@pytest.fixture
def without_native(monkeypatch):
    def run(make):
        with monkeypatch.context() as patch:
            patch.setattr(crops, "_native", Native(False, "not wanted"))
            return make()

    return run


@pytest.fixture
def decodes(monkeypatch):
    """The sizes of what Python decodes from here on."""
    seen = []
    decode_region = encoded.decode_region

    def counting(data, header, wanted, scratch):
        seen.append((wanted.height, wanted.width))
        return decode_region(data, header, wanted, scratch)

    monkeypatch.setattr(encoded, "decode_region", counting)
    return seen


def epoch(reader, augmentation=CROPS, number=0, num_workers=0, decoded=None):
    steps = order(reader.shard_sizes, seed=0, epoch=number, digest="d", global_batch_size=25)
    made = training_batches(
        reader, steps, augmentation, input_px=INPUT_PX, rank=0, world_size=1, first_step=0, num_workers=num_workers,
        decoded=decoded,
    )  # fmt: skip
    return [batch.images_BCHW.clone() for batch in made]


def are_equal(some, others):
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize(
    "changes",
    [{}, {"horizontal_flip": False, "vertical_flip": False}, {"color_jitter": 0.3}, {"erase_probability": 0.7},
     {"policy": "randaugment"}, {"shift_fraction": 0.2}, {"shift_fraction": 0.5, "erase_probability": 0.5},
     {"shift_fraction": 0.5, "color_jitter": 0.3}],
)  # fmt: skip
def test_training_gives_the_same_pixels(write, without_native, changes, num_workers):
    reader, augmentation = write(any_image), replace(CROPS, **changes)
    for number in range(3):
        natively = epoch(reader, augmentation, number, num_workers)
        assert are_equal(natively, without_native(lambda: epoch(reader, augmentation, number)))  # noqa: B023


def test_evaluation_gives_the_same_pixels(write, without_native):
    reader = write(any_image)

    def images():
        made = split_batches(reader, input_px=INPUT_PX, batch_size=32, num_workers=2)
        return [batch.images_BCHW.clone() for batch in made]

    assert are_equal(images(), without_native(images))


def test_crops_that_grow_are_left_to_nobody_else(write, decodes, without_native):
    reader = write(lambda _number: simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :90])))
    natively = epoch(reader)
    assert decodes == []
    assert are_equal(natively, without_native(lambda: epoch(reader)))
    assert len(decodes) == 75


def test_no_more_is_held_at_once_than_some_images_of_some_bytes(write, monkeypatch):
    reader, pieces = write(any_image), []
    read_images = reader.read_images

    def noting(shards_N, crops_N, memory):
        pieces.append(crops_N["num_bytes"].tolist())
        read_images(shards_N, crops_N, memory)

    monkeypatch.setattr(reader, "read_images", noting)
    expected = epoch(reader)
    assert list(map(len, pieces)) == [25, 25, 25]
    for max_images, max_bytes in ((10, 10**9), (25, 60_000), (7, 60_000), (25, 1)):
        pieces.clear()
        monkeypatch.setattr(assembly, "_PIECE_IMAGES", max_images)
        monkeypatch.setattr(assembly, "_PIECE_BYTES", max_bytes)
        assert are_equal(epoch(reader), expected)
        assert all(len(sizes) == 1 or (len(sizes) <= max_images and sum(sizes) <= max_bytes) for sizes in pieces)
        num_made = list(itertools.accumulate(map(len, pieces)))
        assert num_made[-1] == 75
        for sizes, next_sizes, so_far in zip(pieces, pieces[1:], num_made, strict=False):
            is_full = len(sizes) == max_images or sum(sizes) + next_sizes[0] > max_bytes
            assert is_full or so_far % 25 == 0, "smaller than it must be, and no batch ends there"


def test_an_image_that_is_left_is_read_once(write, monkeypatch):
    reader = write(any_image)
    monkeypatch.setattr(reader, "image_bytes", pytest.fail)
    epoch(reader)


@pytest.mark.parametrize("changes", [{}, {"shift_fraction": 0.5, "erase_probability": 0.5}])
@pytest.mark.parametrize("limit_bytes", [100_000_000, 1_000_000, 1])
def test_kept_images_give_the_same_pixels(write, tmp_path, monkeypatch, without_native, decodes, limit_bytes, changes):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    reader = write(any_image)
    wanted = replace(CROPS, **changes)
    expected = [without_native(lambda: epoch(reader, wanted, number)) for number in range(4)]  # noqa: B023
    with open_decoded(reader, limit_bytes, pytest.fail) as decoded:
        for number in (0, 1, 2, 3, 0, 1):
            assert are_equal(epoch(reader, wanted, number, num_workers=2, decoded=decoded), expected[number])
        assert decoded.grows == (limit_bytes == 100_000_000)
        del decodes[:]
        epoch(reader, wanted, decoded=decoded)
    # Those without a place in the cache are native code's again, but for what it leaves in any case.
    assert len(decodes) == 0 if limit_bytes == 100_000_000 else 0 < len(decodes) < 75


def test_another_process_s_images_are_compared_with_their_checksums_before_native_code_has_them(
    write, tmp_path, monkeypatch
):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    reader = write(lambda _number: simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :90])))
    with open_decoded(reader, 10_000_000, pytest.fail) as decoded:
        expected = epoch(reader, decoded=decoded)
    (pixels,) = (tmp_path / "cache").rglob("pixels")
    pixels.write_bytes(b"\x55" * pixels.stat().st_size)
    with open_decoded(reader, 10_000_000, pytest.fail) as decoded:
        assert are_equal(epoch(reader, decoded=decoded), expected)
        assert are_equal(epoch(reader, decoded=decoded), expected)


@pytest.mark.parametrize("with_native_code", [True, False])
def test_a_broken_image_is_named_with_its_shard(write, monkeypatch, with_native_code):
    if not with_native_code:
        monkeypatch.setattr(region, "_native", Native(False, "not built"))
    whole = simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :40]))
    reader = write(lambda number: whole[: len(whole) // 3] if number == 37 else whole)
    named = "^Sample 37 of train/train-000001.tar cannot be decoded: The JPEG is truncated.* run `convoy shard` again"
    with pytest.raises(ArtifactError, match=named):
        epoch(reader, replace(CROPS, crop_scale=(1.0, 1.0)), num_workers=2)


def test_an_image_without_a_header_is_named_with_its_shard(write):
    whole = simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :40]))
    reader = write(lambda number: b"no image" if number == 2 else whole)
    with pytest.raises(ArtifactError, match=r"^Sample 2 of train/train-000000\.tar cannot be decoded: "):
        epoch(reader)


def test_a_tar_that_is_cut_while_it_is_read_is_named(write):
    reader = write(lambda _number: simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :40])))
    epoch(reader)
    (reader.index_path.parent / "train/train-000002.tar").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"train-000002\.tar was cut while it was read; run `convoy verify`"):
        epoch(reader)


def test_time_is_told_by_what_it_was_spent_on(write):
    reader = write(lambda _number: simplejpeg.encode_jpeg(np.ascontiguousarray(NOISE_HWC[:40, :90])))
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest="d", global_batch_size=25)
    made = training_batches(reader, steps, CROPS, input_px=INPUT_PX, rank=0, world_size=1, first_step=0, num_workers=0)
    assert all(min(batch.work) > 0 for batch in made)

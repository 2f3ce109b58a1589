"""Samples with other channels than RGB through the loader: the same geometry, the same types, no change of colour."""

import io
import re

import numpy as np
import pytest
import shard_sets

from pipeline.errors import ParamsError
from pipeline.imaging.resizing import evaluation_view
from pipeline.loading import augment
from pipeline.loading.batches import evaluation_batches, training_batches
from pipeline.loading.kept import open_decoded
from pipeline.loading.order import order
from pipeline.loading.read import SplitReader

PLAIN = augment.Augmentation((0.3, 1.0), (0.75, 1.33), True, True, 0.0)
KINDS = [(5, "uint8"), (5, "uint16"), (1, "uint16"), (3, "uint16"), (200, "uint8")]


def shards(folder, num_channels, pixel_dtype):
    return shard_sets.write(
        folder, {"train": [12], "validation": [5]}, num_channels=num_channels, pixel_dtype=pixel_dtype
    )


def stored(reader: SplitReader) -> dict[int, np.ndarray]:
    places, rows = reader.locate(np.arange(reader.num_samples))
    return {
        int(row["key"]): np.load(io.BytesIO(reader.image_bytes(int(shard), row)))
        for shard, row in zip(places, rows, strict=True)
    }


@pytest.mark.parametrize(("num_channels", "pixel_dtype"), KINDS)
def test_evaluation_sees_every_channel_in_its_type(tmp_path, num_channels, pixel_dtype):
    index_path = shards(tmp_path, num_channels, pixel_dtype)
    images = stored(SplitReader(index_path, "validation"))
    (batch,) = evaluation_batches(index_path, "validation", input_px=16, batch_size=8, num_workers=2)
    assert batch.images_BCHW.shape == (8, num_channels, 16, 16)
    images_BHWC = batch.images_BCHW.permute(0, 2, 3, 1).numpy()
    assert images_BHWC.dtype == pixel_dtype
    assert batch.mask_B.sum() == len(images) == 5
    for key, image_HWC in zip(batch.keys_B[:5].tolist(), images_BHWC[:5], strict=True):
        np.testing.assert_array_equal(image_HWC, evaluation_view(images[key], 16))
    assert not images_BHWC[5:].any()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("num_channels", "pixel_dtype"), KINDS)
def test_training_gives_every_channel_in_its_type(tmp_path, num_channels, pixel_dtype, workers):
    reader = SplitReader(shards(tmp_path, num_channels, pixel_dtype), "train")
    images = stored(reader)
    epoch = order(
        reader.shard_sizes, seed=0, epoch=0, digest=reader.index.digest, global_batch_size=12, lanes=1, window=None
    )
    (batch,) = training_batches(
        reader, epoch, PLAIN, input_px=16, rank=0, world_size=1, first_step=0, num_workers=workers
    )
    images_BHWC = batch.images_BCHW.permute(0, 2, 3, 1).numpy()
    assert images_BHWC.dtype == pixel_dtype
    assert images_BHWC.shape == (12, 16, 16, num_channels)
    for key, image_HWC in zip(batch.keys_B.tolist(), images_BHWC, strict=True):
        source_HWC, means = images[key], image_HWC.mean(axis=(0, 1))
        np.testing.assert_allclose(means, source_HWC.mean(axis=(0, 1)), rtol=0.2)


@pytest.mark.parametrize(("num_channels", "pixel_dtype"), KINDS)
def test_a_crop_is_the_same_for_every_channel(num_channels, pixel_dtype):
    random, view = np.random.default_rng(0), augment.View(3, 5, 21, 17, True, True, None)
    image_HWC = random.integers(0, np.iinfo(pixel_dtype).max, (30, 40, num_channels), pixel_dtype)
    out_HWC, alone_HWC = np.empty((16, 16, num_channels), pixel_dtype), np.empty((16, 16, 1), pixel_dtype)
    augment.apply(image_HWC, view, 16, out_HWC)
    for channel in range(num_channels):
        augment.apply(np.ascontiguousarray(image_HWC[:, :, [channel]]), view, 16, alone_HWC)
        np.testing.assert_allclose(out_HWC[:, :, [channel]].astype(int), alone_HWC.astype(int), atol=1)


def test_flips_are_exact_for_any_channels():
    for num_channels, pixel_dtype in [(3, "uint8"), *KINDS]:
        random = np.random.default_rng(num_channels)
        image_HWC = random.integers(0, np.iinfo(pixel_dtype).max, (8, 8, num_channels), pixel_dtype)
        for horizontal in (False, True):
            for vertical in (False, True):
                out_HWC = np.empty_like(image_HWC)
                augment.apply(image_HWC, augment.View(0, 0, 8, 8, horizontal, vertical, None), 8, out_HWC)
                expected_HWC = image_HWC[:: -1 if vertical else 1, :: -1 if horizontal else 1]
                np.testing.assert_array_equal(out_HWC, expected_HWC)


def test_erasing_paints_each_channel_in_its_own_mean():
    image_HWC = np.random.default_rng(0).integers(0, 60_000, (8, 8, 5), np.uint16)
    out_HWC = np.empty_like(image_HWC)
    augment.apply(image_HWC, augment.View(0, 0, 8, 8, False, False, None, erased=(2, 3, 4, 5)), 8, out_HWC)
    expected = np.rint(image_HWC.mean(axis=(0, 1))).astype(np.uint16)
    assert (out_HWC[2:6, 3:8] == expected).all()
    assert (out_HWC[:2] == image_HWC[:2]).all()


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({"color_jitter": 0.2}, "set augment.color_jitter=0.0. Crops"),
        ({"policy": "randaugment"}, "set augment.policy=none. Crops"),
        ({"color_jitter": 0.1, "policy": "augmix"}, "set augment.color_jitter=0.0 and augment.policy=none. Crops"),
    ],
)
def test_changes_of_colour_are_refused_for_other_channels(changes, unmet):
    augmentation = augment.Augmentation(**(vars(PLAIN) | changes))
    augment.check(augmentation, 3, "uint8")
    with pytest.raises(ParamsError, match=f"the images have 5 channels of uint8, not red, .*{re.escape(unmet)}"):
        augment.check(augmentation, 5, "uint8")
    with pytest.raises(ParamsError, match="the images have 3 channels of uint16, not red"):
        augment.check(augmentation, 3, "uint16")


def test_geometry_and_erasing_are_allowed_for_any_channels():
    for num_channels, pixel_dtype in KINDS:
        augment.check(augment.Augmentation(**(vars(PLAIN) | {"erase_probability": 0.5})), num_channels, pixel_dtype)


def test_a_loader_without_a_stage_before_it_refuses_them_too(tmp_path):
    reader = SplitReader(shards(tmp_path, 5, "uint8"), "train")
    augmentation = augment.Augmentation(**(vars(PLAIN) | {"color_jitter": 0.2}))
    with pytest.raises(ParamsError, match="the images have 5 channels of uint8, not red"):
        training_batches(reader, None, augmentation, input_px=16, rank=0, world_size=1, first_step=0, num_workers=0)


@pytest.mark.parametrize(("num_channels", "pixel_dtype"), [(5, "uint16"), (200, "uint8")])
def test_decoded_images_are_kept_with_every_channel(tmp_path, monkeypatch, num_channels, pixel_dtype):
    monkeypatch.setenv("CONVOY_CACHE", str(tmp_path / "cache"))
    reader = SplitReader(shards(tmp_path / "shards", num_channels, pixel_dtype), "train")

    def pixels(epoch: int, decoded) -> np.ndarray:
        steps = order(reader.shard_sizes, seed=0, epoch=epoch, digest="d", global_batch_size=12, lanes=1, window=None)
        made = training_batches(
            reader, steps, PLAIN, input_px=16, rank=0, world_size=1, first_step=0, num_workers=0, decoded=decoded
        )
        return next(made).images_BCHW.numpy().copy()

    with open_decoded(reader, 10**7, pytest.fail) as decoded:
        for epoch in (0, 1, 0):
            np.testing.assert_array_equal(pixels(epoch, decoded), pixels(epoch, None))
        assert all(max(places) >= 0 for places in decoded.look_up(np.arange(12))[0])

"""The sheet of the first batch: tiles and captions where they belong, written once, never in the way of training."""

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.loading.batches import Batch
from pipeline.training import picture

COLORS = [(255, 0, 0), (0, 128, 0), (0, 0, 255)]


def batch(num_images: int, side_px: int = 16) -> Batch:
    colors_B3 = np.array([COLORS[n % 3] for n in range(num_images)], np.uint8)
    images_BHWC = np.broadcast_to(colors_B3[:, None, None], (num_images, side_px, side_px, 3)).copy()
    labels_B = torch.arange(num_images) % 3
    return Batch(
        torch.from_numpy(images_BHWC).permute(0, 3, 1, 2), labels_B, torch.ones(num_images), np.arange(num_images)
    )


def tile(sheet: Image.Image, number: int) -> tuple[int, int, int]:
    """The colour in the middle of a tile."""
    row, column = divmod(number, picture.NUM_COLUMNS)
    step_x, step_y = picture.TILE_PX + picture.GAP_PX, picture.TILE_PX + picture.CAPTION_PX + picture.GAP_PX
    half = picture.GAP_PX + picture.TILE_PX // 2
    return sheet.getpixel((column * step_x + half, row * step_y + half))


@pytest.mark.parametrize(("num_images", "shown"), [(1, 1), (3, 3), (11, 11), (40, 32)])
@pytest.mark.parametrize("side_px", [16, 300])
def test_the_first_batch_is_drawn_and_every_batch_handed_on(tmp_path, num_images, shown, side_px):
    path = tmp_path / "files" / "augmented_batch.png"
    batches = [batch(num_images, side_px), batch(2)]
    assert list(picture.drawing_first(iter(batches), path, ["a", "b", "c"])) == batches
    sheet = Image.open(path)
    assert [tile(sheet, number) for number in range(shown)] == [COLORS[n % 3] for n in range(shown)]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("num_channels", [2, 5])
def test_other_channels_are_drawn_as_the_eye_can_see_them(tmp_path, num_channels):
    images_BCHW = torch.full((2, num_channels, 16, 16), 700, dtype=torch.int32).to(torch.uint16)
    images_BCHW[:, 0, 8:] = 900
    labels_B, mask_B = torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool)
    list(picture.drawing_first(iter([Batch(images_BCHW, labels_B, mask_B, np.arange(2))]), tmp_path / "a.png", "ab"))
    sheet = Image.open(tmp_path / "a.png")
    x, top, bottom = picture.GAP_PX + 9, picture.GAP_PX + 9, picture.GAP_PX + picture.TILE_PX - 9
    assert sheet.getpixel((x, top)) == (0, 0, 0)
    assert sheet.getpixel((x, bottom)) == ((255, 0, 0) if num_channels == 5 else (255, 255, 255))


def test_a_picture_stays_as_it_is(tmp_path):
    path = tmp_path / "augmented_batch.png"
    path.write_bytes(b"mine")
    list(picture.drawing_first(iter([batch(2)]), path, ["a", "b", "c"]))
    assert path.read_bytes() == b"mine"


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "files").write_text("a file where the folder should be")
    [first] = picture.drawing_first(iter([batch(2)]), tmp_path / "files" / "augmented_batch.png", ["a", "b", "c"])
    assert len(first.labels_B) == 2


def test_captions_are_as_wide_as_a_tile_at_most():
    plain = picture.draw(np.zeros((2, 8, 8, 3), np.uint8), ["short", "x"])
    long = picture.draw(np.zeros((2, 8, 8, 3), np.uint8), ["very long\nname " * 40, "x"])
    assert plain.size == long.size
    second = (picture.GAP_PX + picture.TILE_PX + picture.GAP_PX, 0, *plain.size)
    assert plain.crop(second).tobytes() == long.crop(second).tobytes()
    assert plain.tobytes() != long.tobytes()

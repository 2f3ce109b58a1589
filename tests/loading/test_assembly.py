import threading

import cv2
import numpy as np
import simplejpeg

from pipeline.imaging.decode import decode
from pipeline.imaging.region import MIN_SHRUNK_PX, Region, shrunk_size
from pipeline.loading import encoded
from pipeline.loading.assembly import Pages
from pipeline.loading.encoded import Pixels


def photo(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(cv2.blur(noise, (5, 5))), quality=90)


def whole(height, width, shrink=1):
    return Region(0, 0, *shrunk_size(height, width, shrink), shrink)


def test_memory_that_is_used_again_changes_no_pixel():
    for data in (photo(40, 60, 1), photo(60, 40, 2), photo(8, 8, 3)):
        image = Pixels(data)
        assert image.size == decode(data).shape[:2]
        assert np.array_equal(image.decoded(whole(*image.size)), decode(data))
    data = photo(160, 240)
    part = Region(3, 7, 30, 40, shrink=4)
    assert np.array_equal(Pixels(data).decoded(part), part.of(decode(data, min_short_side_px=40)))


def test_only_jpegs_of_some_size_are_shrunk():
    as_png = cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    assert Pixels(photo(MIN_SHRUNK_PX, 90)).can_shrink
    assert not Pixels(photo(MIN_SHRUNK_PX - 1, 90)).can_shrink
    assert not Pixels(as_png).can_shrink
    assert Pixels(as_png).size == (64, 64)


def test_a_thread_decodes_into_the_memory_it_has_and_others_into_theirs():
    mine = Pixels(photo(40, 60)).decoded(whole(40, 60))
    assert np.shares_memory(mine, encoded._scratch.memory)
    before = mine.copy()
    thread = threading.Thread(target=lambda: Pixels(photo(40, 60, seed=9)).decoded(whole(40, 60)))
    thread.start()
    thread.join()
    assert np.array_equal(mine, before)


def test_an_image_larger_than_the_memory_gets_its_own(monkeypatch):
    data = photo(40, 60)
    monkeypatch.setattr(encoded, "_scratch", threading.local())
    monkeypatch.setattr(encoded, "SCRATCH_BYTES", 40 * 60 * 3 - 1)
    image_HWC = Pixels(data).decoded(whole(40, 60))
    assert not np.shares_memory(image_HWC, encoded._scratch.memory)
    assert np.array_equal(image_HWC, decode(data))


def test_pages_are_handed_out_again_and_never_in_another_shape():
    pages = Pages()
    first = pages.take((2, 3))
    address = first.ctypes.data
    other = pages.take((2, 3))
    assert not np.shares_memory(first, other)
    del first
    again = pages.take((2, 3))
    assert again.ctypes.data == address
    del again
    assert pages.take((3, 4)).shape == (3, 4)

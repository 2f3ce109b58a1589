import threading

import cv2
import numpy as np
import simplejpeg

from pipeline.imaging.decode import decode
from pipeline.loading import assembly
from pipeline.loading.assembly import Pages, Pixels


def photo(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(cv2.blur(noise, (5, 5))), quality=90)


def test_memory_that_is_used_again_changes_no_pixel():
    for data in (photo(40, 60, 1), photo(60, 40, 2), photo(8, 8, 3)):
        image = Pixels(data)
        assert np.array_equal(image.decoded(), decode(data))
        assert image.size == decode(data).shape[:2]
    data = photo(160, 240)
    small = Pixels(data).decoded(min_short_side_px=40)
    assert small.shape == (40, 60, 3)
    assert np.array_equal(small, decode(data, min_short_side_px=40))


def test_a_thread_decodes_into_the_memory_it_has_and_others_into_theirs():
    mine = Pixels(photo(40, 60)).decoded()
    assert np.shares_memory(mine, assembly._scratch.memory)
    before = mine.copy()
    thread = threading.Thread(target=lambda: Pixels(photo(40, 60, seed=9)).decoded())
    thread.start()
    thread.join()
    assert np.array_equal(mine, before)


def test_an_image_larger_than_the_memory_gets_its_own(monkeypatch):
    data = photo(40, 60)
    monkeypatch.setattr(assembly, "_scratch", threading.local())
    monkeypatch.setattr(assembly, "_SCRATCH_BYTES", 40 * 60 * 3 - 1)
    image_HWC = Pixels(data).decoded()
    assert not np.shares_memory(image_HWC, assembly._scratch.memory)
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

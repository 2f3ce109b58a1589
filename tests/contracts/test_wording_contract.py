"""Numbers as people read them: the words around them fit."""

import pytest

from pipeline.wording import counted, size_text, time_text


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (2000, "image", "2,000 images"), (2, "class", "2 classes")],
)
def test_one_is_one_and_all_else_are_many(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (29.4, "29 s"),
        (45, "1 min"),
        (3600, "1 h 0 min"),
        (93_780, "1 d 2 h 3 min"),
        (86_400, "1 d 0 h 0 min"),
    ],
)
def test_times_are_told_in_words(seconds, text):
    assert time_text(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0.0 kB"), (999, "1.0 kB"), (7.65e6, "7.7 MB"), (2e9, "2.0 GB"), (3.2e12, "3.2 TB")]
)
def test_sizes_are_told_in_words(num_bytes, text):
    assert size_text(num_bytes) == text

import base64
import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.evaluation import figures, heatmap
from pipeline.evaluation.calibrate import reliability
from pipeline.evaluation.metrics import confusion


def heights(svg: str, kind: str) -> list[float]:
    return [float(e.get("height")) for e in ElementTree.fromstring(svg).iter("rect") if e.get("class") == kind]


def points(svg: str) -> list[list[tuple[float, float]]]:
    lines = [e.get("points").split() for e in ElementTree.fromstring(svg).iter("polyline")]
    return [[tuple(map(float, point.split(","))) for point in line] for line in lines]


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=20),
    percent=st.booleans(),
)
def test_curves_stay_inside_their_frame(values, percent):
    values = [*values, 1.0]
    svg = figures.curves("Loss", {"training": (range(len(values)), values)}, x_label="epoch", percent=percent)
    (line,) = points(svg)
    assert len(line) == sum(math.isfinite(v) for v in values)
    for x, y in line:
        assert figures.LEFT <= x <= figures.WIDTH - figures.RIGHT
        assert figures.TOP - 0.02 <= y <= figures.HEIGHT - figures.BOTTOM + 0.02


def test_a_curve_goes_where_its_numbers_go():
    svg = figures.curves("Loss", {"training": ([1, 2, 3], [2.0, 1.0, 0.0])}, x_label="epoch")
    ((x1, y1), (x2, y2), (x3, y3)) = points(svg)[0]
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.02)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.02)
    assert (y1, y3) == (figures.TOP, figures.HEIGHT - figures.BOTTOM)


@pytest.mark.parametrize("value", [1.0, 0.5, 0.0])
def test_a_share_that_never_changes_lies_between_none_and_all(value):
    svg = figures.curves("Top-1", {"validation": ([1, 2], [value, value])}, x_label="epoch", percent=True)
    ticks = [text.text for text in ElementTree.fromstring(svg).iter("text") if "%" in (text.text or "")]
    assert (ticks[0], ticks[-1]) == ("0 %", "100 %")
    ((_, y), _) = points(svg)[0]
    assert y == pytest.approx(figures.TOP + (1 - value) * (figures.HEIGHT - figures.BOTTOM - figures.TOP), abs=0.02)


def test_labels_at_the_ends_never_touch():
    svg = figures.curves("Loss", {"training": ([1, 2], [1, 0.5]), "validation": ([1, 2], [1, 0.5])}, x_label="epoch")
    ends = [float(g.find("text").get("y")) for g in ElementTree.fromstring(svg).iter("g")]
    assert abs(ends[0] - ends[1]) >= figures.LABEL_GAP


@given(low=st.floats(-1e5, 1e5), span=st.floats(1e-3, 1e5))
def test_ticks_are_few_and_hold_the_range(low, span):
    ticks = figures._ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * span
    assert ticks[-1] >= low + span * (1 - 1e-6)


def test_reliability_marks_stand_at_accuracy_and_confidence():
    svg = figures.reliability_diagram(reliability(np.array([0.62, 0.64]), np.array([True, False])))
    full = figures.HEIGHT - figures.BOTTOM - figures.TOP
    assert heights(svg, "bar") == [pytest.approx(0.5 * full, abs=0.02)]
    assert heights(svg, "gap") == [pytest.approx(0.13 * full, abs=0.02)]


def test_the_histogram_counts_every_answer():
    rng = np.random.default_rng(0)
    svg = figures.confidence_histogram(rng.random(500), rng.random(500) < 0.8)
    titles = {
        kind: sum(int(e.find("title").text) for e in ElementTree.fromstring(svg).iter("rect") if e.get("class") == kind)
        for kind in ("hit", "miss")
    }
    assert titles["hit"] + titles["miss"] == 500
    assert titles["miss"] < titles["hit"]


def test_the_matrix_holds_every_count_and_any_name():
    labels_N, predicted_N = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    names = ["<script>", "a\"b'&", "a very long name of a class that goes on"]
    root = ElementTree.fromstring(heatmap.matrix(confusion(labels_N, predicted_N, 3), names))
    titles = [e.text for e in root.iter("title")]
    assert "<script> taken for a\"b'&: 1 (50.0 %)" in titles
    assert "a\"b'& recognised: 1 (100.0 %)" in titles
    assert "a very long name of a class that goes on taken for <script>: 1 (50.0 %)" in titles
    assert sum(e.get("class") == "cell" for e in root.iter("rect")) == 9
    assert any(e.text is None and e[0].tail == "a very long name …" for e in root.iter("text") if len(e))


@pytest.mark.parametrize(("num_classes", "side"), [(31, 31), (400, 400), (10_000, 400)])
def test_the_compact_picture_has_a_pixel_a_cell_up_to_its_limit(num_classes, side):
    pairs = confusion(np.array([0, 0, 0, num_classes - 1]), np.array([0, 0, num_classes - 1, 0]), num_classes)
    data = str(heatmap.compact(pairs, num_classes)).split("base64,")[1].split('"')[0]
    pixels_SS4 = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    assert pixels_SS4.shape == (side, side, 4)
    drawn = np.argwhere(pixels_SS4[..., 3]).tolist()
    assert drawn == [[0, 0], [0, side - 1], [side - 1, 0]]
    assert tuple(pixels_SS4[0, 0, :3]) == heatmap.HIT_RGB
    assert tuple(pixels_SS4[0, -1, :3]) == heatmap.MISS_RGB
    assert pixels_SS4[-1, 0, 3] == 255

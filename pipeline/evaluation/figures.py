"""The report's charts, as inline SVG drawn from plain values. Colours and type come from report.css by class name.

Every text passes through markupsafe, so that a class name can hold anything.
"""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from pipeline.evaluation.calibrate import Reliability

WIDTH, HEIGHT = 440, 264
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 14, 40
LABEL_GAP = 17


def curves(
    name: str, series: dict[str, tuple[Sequence[float], Sequence[float]]], *, x_label: str, percent: bool = False
) -> Markup:
    """Lines of (x, y) values over one axis, each labelled at its end; values that are no numbers are left out.

    A series' name is its class in report.css.
    """
    points = {
        label: [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)] for label, (xs, ys) in series.items()
    }
    points = {label: line for label, line in points.items() if line}
    every = [point for line in points.values() for point in line]
    low, high = min(y for _, y in every), max(y for _, y in every)
    if percent and low == high:
        low, high = 0.0, 1.0
    y_ticks = _ticks(low if percent else min(low, 0.0), high)
    x_ticks = _ticks(min(x for x, _ in every), max(x for x, _ in every), whole=True)
    right = RIGHT + max(7 * len(label) for label in points) + 10
    x_of = _scale(min(x for x, _ in every), max(x for x, _ in every), LEFT, WIDTH - right)
    y_of = _scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(y_ticks, y_of, WIDTH - right, percent), _x_axis(x_ticks, x_of, x_label)]
    label_ys = _apart([y_of(line[-1][1]) for line in points.values()])
    for (label, line), label_y in zip(points.items(), label_ys, strict=True):
        path = " ".join(f"{_px(x_of(x))},{_px(y_of(y))}" for x, y in line)
        last_x, last_y = x_of(line[-1][0]), y_of(line[-1][1])
        parts.append(
            Markup(
                '<g class="{}"><polyline points="{}"/><circle cx="{}" cy="{}" r="3.5"/>'
                '<text x="{}" y="{}" dy="0.35em">{}</text></g>'
            ).format(label, path, _px(last_x), _px(last_y), _px(last_x + 10), _px(label_y), label)
        )
    last = ", ".join(f"{label} ends at {_tick(line[-1][1], percent, 3)}" for label, line in points.items())
    return _svg(WIDTH, HEIGHT, name, f"{name} by {x_label}: {last}.", parts)


def reliability_diagram(bins: Reliability) -> Markup:
    """Accuracy by confidence: a mark a bin, orange up or down to the mean confidence, the ideal as a diagonal."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    x_of, y_of = _scale(0, 1, LEFT, WIDTH - RIGHT), _scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_y_axis(ticks, y_of, WIDTH - RIGHT, True), _x_axis(ticks, x_of, "confidence", percent=True)]
    num_bins = len(bins.count_M)
    for b in np.flatnonzero(bins.count_M):
        count = int(bins.count_M[b])
        accuracy, confidence = bins.correct_M[b] / count, bins.confidence_M[b] / count
        left, right = x_of(b / num_bins) + 1, x_of((b + 1) / num_bins) - 1
        top, bottom = sorted((y_of(accuracy), y_of(confidence)))
        width = right - left
        parts.append(
            Markup(
                '<g><title>{}</title><rect class="bar" x="{}" y="{}" width="{}" height="{}"/>'
                '<rect class="gap" x="{}" y="{}" width="{}" height="{}"/>'
                '<rect class="hit" x="{}" y="{}" width="{}" height="2.5"/></g>'
            ).format(
                f"{count:,} images: confidence {100 * confidence:.1f} %, right {100 * accuracy:.1f} %",
                *map(_px, (left, bottom, width, y_of(0) - bottom)),
                *map(_px, (left, top, width, bottom - top)),
                *map(_px, (left, y_of(accuracy) - 1.25, width)),
            )
        )
    diagonal = [_px(value) for value in (x_of(0), y_of(0), x_of(1), y_of(1))]
    parts.append(Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(*diagonal))
    text = f"Accuracy by confidence. Expected calibration error {bins.ece:.3f}; the dashed diagonal is the ideal."
    return _svg(WIDTH, HEIGHT, "Reliability", text, parts)


def confidence_histogram(confidence_N: np.ndarray, correct_N: np.ndarray, num_bins: int = 40) -> Markup:
    """How sure the model is where it is right and where it is wrong: two panels, each with its own height."""
    x_of = _scale(0, 1, LEFT, WIDTH - RIGHT)
    parts = []
    panel = (HEIGHT - TOP - BOTTOM) / 2
    for number, (label, chosen_N, mark) in enumerate((("right", correct_N, "hit"), ("wrong", ~correct_N, "miss"))):
        counts, _ = np.histogram(confidence_N[chosen_N], bins=num_bins, range=(0, 1))
        base = TOP + panel * (number + 1) - 2
        y_of = _scale(0, max(1, int(counts.max())), base, base - panel + 26)
        for b in np.flatnonzero(counts):
            left, right = x_of(b / num_bins) + 0.5, x_of((b + 1) / num_bins) - 0.5
            parts.append(
                Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    mark, *map(_px, (left, y_of(counts[b]), right - left, base - y_of(counts[b]))), f"{counts[b]:,}"
                )
            )
        parts.append(
            Markup('<line class="axis" x1="{}" y1="{}" x2="{}" y2="{}"/><text class="strong" x="{}" y="{}">{}</text>')
            .format(LEFT, _px(base), WIDTH - RIGHT, _px(base), LEFT, _px(base - panel + 18),
                    f"{label}: {int(chosen_N.sum()):,} images, tallest bar {int(counts.max()):,}")
        )  # fmt: skip
    parts.append(_x_axis([0.0, 0.25, 0.5, 0.75, 1.0], x_of, "confidence", percent=True))
    means = [100 * confidence_N[chosen].mean() if chosen.any() else math.nan for chosen in (correct_N, ~correct_N)]
    spoken = [f"{mean:.1f} %" if math.isfinite(mean) else "not defined" for mean in means]
    text = f"Mean confidence where the answer is right: {spoken[0]}; where it is wrong: {spoken[1]}."
    return _svg(WIDTH, HEIGHT, "Confidence of right and wrong answers", text, parts)


def _svg(width: float, height: float, name: str, text: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"><desc>{}</desc>')
    return head.format(_px(width), _px(height), name, text) + Markup("").join(parts) + Markup("</svg>")


def _y_axis(ticks: Sequence[float], y_of, right: float, percent: bool) -> Markup:
    line = Markup(
        '<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/><text class="tick end" x="{}" y="{}" dy="0.35em">{}</text>'
    )
    return Markup("").join(
        line.format(LEFT, _px(y_of(t)), _px(right), _px(y_of(t)), LEFT - 8, _px(y_of(t)), _tick(t, percent))
        for t in ticks
    )


def _x_axis(ticks: Sequence[float], x_of, label: str, percent: bool = False) -> Markup:
    texts = Markup("").join(
        Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(
            _px(x_of(t)), HEIGHT - BOTTOM + 18, _tick(t, percent)
        )
        for t in ticks
    )
    middle = (x_of(ticks[0]) + x_of(ticks[-1])) / 2
    return texts + Markup('<text class="label middle" x="{}" y="{}">{}</text>').format(_px(middle), HEIGHT - 4, label)


def _ticks(low: float, high: float, *, count: int = 5, whole: bool = False) -> list[float]:
    """About `count` round values; the first is at most `low` and the last at least `high`, unless `whole`: then they
    are whole numbers inside the range."""
    if high <= low:
        return [low] if whole else [low, low + 1.0]
    raw = (high - low) / (count - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
        return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [step * k for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _scale(low: float, high: float, start_px: float, end_px: float):
    """Linear map; a range of no width goes to its middle."""
    if high == low:
        return lambda value: (start_px + end_px) / 2
    return lambda value: start_px + (value - low) / (high - low) * (end_px - start_px)


def _apart(ys: list[float]) -> list[float]:
    """The positions pushed down until no two labels touch, in the given order."""
    placed, last = list(ys), -math.inf
    for i in sorted(range(len(ys)), key=lambda i: ys[i]):
        placed[i] = last = max(ys[i], last + LABEL_GAP)
    return placed


def _tick(value: float, percent: bool, digits: int = 4) -> str:
    return f"{100 * value:.{digits}g} %" if percent else f"{value:.{digits}g}"


def _px(value: float) -> str:
    """Two decimals are finer than any screen and keep the file small."""
    return escape(f"{value:.2f}".rstrip("0").rstrip("."))

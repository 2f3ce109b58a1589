"""report.html: the whole evaluation on one page that opens offline, verdict first.

The page asks for nothing: style, charts and pictures lie inside it, there is no script, and its content policy would
refuse both. It holds no clock and no path of this machine, so the same run and figures give the same bytes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup

from pipeline.artifacts import SCORES, SPLITS, Index, Run
from pipeline.evaluation import figures, heatmap, verdict
from pipeline.evaluation.audited import absent_names, found_rows
from pipeline.evaluation.calibrate import reliability
from pipeline.evaluation.gallery import Mistake, WrongAnswer
from pipeline.evaluation.metrics import Confusion, confusion, interval
from pipeline.findings import Audit, AuditPictures
from pipeline.metrics import Metrics, MultiLabelMetrics

MAX_OPEN_ROWS = 30
"""Rows of a table that are shown at once; the rest is folded away."""
MAX_ROWS = 2000
MAX_PAIRS = 12
MAX_CHANNELS = 12
"""Whose mean and deviation are shown."""
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Evaluated:
    """What the page is about; `table` holds the joined predictions, `samples` widths and heights in pixels."""

    table: pa.Table
    samples: pa.Table
    metrics: Metrics | MultiLabelMetrics
    index: Index
    run: Run
    history: dict[str, list[float]]
    mistakes: list[Mistake] | list[WrongAnswer]
    audit: Audit
    pictures: AuditPictures
    mirror: bool
    """Whether each answer is the mean of two, of the image and of its mirror image."""


def render(evaluated: Evaluated) -> str:
    """The page's HTML."""
    metrics, index = evaluated.metrics, evaluated.index
    labels_N, predicted_N, correct_N, probability_N = (
        evaluated.table[name].to_numpy() for name in ("label", "predicted", "correct", "probability")
    )
    pairs = confusion(labels_N, predicted_N, len(index.classes))
    bins = reliability(probability_N, correct_N)
    return fill(
        "report.html.j2",
        evaluated,
        headline=f"{verdict.percent(metrics.top1)} top-1",
        sentence=verdict.sentence(metrics, evaluated.run.backbone),
        strengths=verdict.strengths(metrics, pairs, index.classes),
        notes=verdict.notes(metrics, bins, pairs, index.classes, of_the_model(evaluated.history, evaluated.run)),
        tiles=_tiles(metrics),
        matrix=_matrix(pairs, index.classes),
        pairs=_pairs(pairs, metrics, index.classes),
        classes=sorted(metrics.per_class.items(), key=lambda item: (item[1]["support"] == 0, item[1]["f1"], item[0])),
        slices={column: slice_rows(values, "top1") for column, values in metrics.slices.items()},
        slice_figure="Top-1",
        reliability=figures.reliability_diagram(bins),
        histogram=figures.confidence_histogram(probability_N, correct_N),
        mistakes=evaluated.mistakes,
        num_mistakes=int((~correct_N).sum()),
    )


def fill(template: str, evaluated: Evaluated, **own: Any) -> str:
    """A page's HTML: `own` is what this kind of page says, the rest is on every kind."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=verdict.percent, count=lambda value: f"{value:,.0f}", split_rows=_split_rows)
    return environment.get_template(template).render(
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        metrics=evaluated.metrics,
        run=evaluated.run,
        index=evaluated.index,
        curves=_curves(evaluated.history),
        found=found_rows(evaluated.audit, evaluated.pictures),
        absent=absent_names(evaluated.audit),
        data=_data(evaluated.index, evaluated.samples),
        facts=_facts(evaluated.run, evaluated.metrics, evaluated.mirror),
        **own,
    )


def _tiles(metrics: Metrics) -> list[dict[str, str]]:
    between = f"{verdict.percent(metrics.top1_low)} to {verdict.percent(metrics.top1_high)}"
    tiles = [{"name": "Top-1", "value": verdict.percent(metrics.top1), "about": f"95\u202f% interval {between}"}]
    if len(metrics.per_class) > 5:
        tiles.append(
            {"name": "Top-5", "value": verdict.percent(metrics.top5), "about": "true class among the five best"}
        )
    return [
        *tiles,
        {"name": "Macro F1", "value": f"{metrics.macro_f1:.3f}", "about": "every class counts the same"},
        {"name": "Loss", "value": f"{metrics.loss:.3f}", "about": "mean cross-entropy, nats"},
        {"name": "Calibration error", "value": f"{metrics.ece:.3f}", "about": "ECE over 15 bins; 0 is ideal"},
        {"name": "Test images", "value": f"{metrics.num_samples:,}", "about": f"{len(metrics.per_class):,} classes"},
    ]


def of_the_model(history: dict[str, list[float]], run: Run) -> dict[str, list[float]]:
    """What came before the epoch whose weights were exported, and that epoch."""
    return {name: column[: run.exported_epoch] for name, column in history.items()}


def _curves(history: dict[str, list[float]]) -> list[tuple[str, Markup]]:
    """(caption, chart); nothing for figures that were never taken."""
    epochs = history["epoch"]
    drawn = []
    if _any_finite(history["train_loss"]):
        losses = {"training": (epochs, history["train_loss"]), "validation": (epochs, history["validation_loss"])}
        drawn.append(("Loss", figures.curves("Loss", losses, x_label="epoch")))
    for caption, column in (("Top-1", "validation_top1"), ("mAP", "validation_mean_ap")):
        if _any_finite(history[column]):
            lines = {"validation": (epochs, history[column])}
            drawn.append((caption, figures.curves(caption, lines, x_label="epoch", percent=True)))
    return drawn


def _any_finite(values: list[float]) -> bool:
    return any(math.isfinite(value) for value in values)


def _matrix(pairs: Confusion, classes: list[str]) -> Markup:
    return (
        heatmap.matrix(pairs, classes) if len(classes) <= heatmap.MAX_LABELLED else heatmap.compact(pairs, len(classes))
    )


def _pairs(pairs: Confusion, metrics: Metrics, classes: list[str]) -> list[dict]:
    return [
        {
            "actual": classes[a],
            "predicted": classes[p],
            "count": n,
            "share": n / metrics.per_class[classes[a]]["support"],
        }
        for a, p, n in verdict.commonest_mistakes(pairs)[:MAX_PAIRS]
    ]


def slice_rows(values: dict[str, dict[str, float]], figure: str) -> list[dict]:
    """Weakest first, each with the interval of its `figure`, a fraction of its samples."""
    rows = []
    for value, of_slice in sorted(values.items(), key=lambda item: (item[1][figure], item[0])):
        num_samples = round(of_slice["num_samples"])
        low, high = interval(round(of_slice[figure] * num_samples), num_samples)
        rows.append({"value": value, "num_samples": num_samples, "figure": of_slice[figure], "low": low, "high": high})
    return rows


def _split_rows(rows: list) -> tuple[list, list, int]:
    """Rows to show, rows to fold away, and how many are left to metrics.json."""
    shown = rows[:MAX_OPEN_ROWS] if len(rows) > MAX_OPEN_ROWS + 5 else rows
    folded = rows[len(shown) : MAX_ROWS]
    return shown, folded, len(rows) - len(shown) - len(folded)


def _data(index: Index, samples: pa.Table) -> dict:
    counts = {split: index.class_counts(split) for split in SPLITS if index.splits.get(split)}
    widths_N, heights_N = samples["width"].to_numpy(), samples["height"].to_numpy()
    return {
        "splits": {split: index.num_samples(split) for split in counts},
        "classes": [(name, [counts[split][label] for split in counts]) for label, name in enumerate(index.classes)],
        "mean_size": f"{widths_N.mean():.0f} × {heights_N.mean():.0f} px",
        "widths": _range(widths_N),
        "heights": _range(heights_N),
        "channels": _channels(index),
    }


def _channels(index: Index) -> str:
    each = [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(index.mean, index.std, strict=True)]
    more = f" and {len(each) - MAX_CHANNELS} more" if len(each) > MAX_CHANNELS else ""
    return ", ".join(each[:MAX_CHANNELS]) + more


def _range(sizes_N) -> str:
    low, high = sizes_N.min(), sizes_N.max()
    return f"{low:,} px" if low == high else f"{low:,} to {high:,} px"


def _without_folder(tracking_uri: str) -> str:
    """A sqlite store's file alone: where it lies is this machine's own."""
    scheme, is_sqlite, path = tracking_uri.partition("sqlite:///")
    return f"{is_sqlite}{Path(path).name}" if is_sqlite else scheme


def _facts(run: Run, metrics: Metrics | MultiLabelMetrics, mirror: bool) -> dict[str, str]:
    minutes, seconds = divmod(round(run.train_seconds), 60)
    facts = {
        "Backbone": run.backbone,
        "Parameters": f"{run.num_parameters:,}",
        "Looks at": "image and mirror image" if mirror else "image",
        "Epochs": run.ending,
        "Steps": f"{run.num_steps:,}",
        "Ranks": f"{run.world_size:,}",
        "Attempts": f"{run.attempts:,}",
        "Training time": f"{minutes:,} min {seconds} s" if minutes else f"{seconds} s",
        "Speed": f"{run.images_per_second:,.0f} images/s",
        "Fingerprint": run.fingerprint,
        "MLflow run": run.run_id or "not published",
        "MLflow store": _without_folder(run.tracking_uri),
        "Data digest": metrics.index_digest,
        "Weights sha256": metrics.weights_sha256,
    }
    return facts | {f"Validation {SCORES.get(name, name)}": f"{value:.4f}" for name, value in run.validation.items()}

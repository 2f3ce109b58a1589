"""report.html of a multi-label set: as `report`, with what makes sense where an image has any number of classes.

There is no confusion matrix, for no class is taken for another; and nothing about confidence, whose measures are about
the one class that is named. How sure the model is shows in average precision, which is about the order of its answers.
"""

from pipeline.evaluation import verdict
from pipeline.evaluation.report import Evaluated, fill, of_the_model, slice_rows
from pipeline.metrics import MultiLabelMetrics


def render_labels(evaluated: Evaluated) -> str:
    """The page's HTML."""
    metrics = evaluated.metrics
    return fill(
        "labels_report.html.j2",
        evaluated,
        headline=f"mAP {metrics.mean_ap:.3f}",
        sentence=_sentence(metrics, evaluated.run.backbone),
        strengths=_strengths(metrics),
        notes=_notes(metrics, of_the_model(evaluated.history, evaluated.run)),
        tiles=_tiles(metrics),
        classes=sorted(metrics.per_class.items(), key=lambda item: (item[1].get("ap", 2.0), item[0])),
        slices={column: slice_rows(values, "exact_match") for column, values in metrics.slices.items()},
        slice_figure="Exact",
        mistakes=evaluated.mistakes,
        num_mistakes=round((1.0 - metrics.exact_match) * metrics.num_samples),
    )


def _sentence(metrics: MultiLabelMetrics, backbone: str) -> str:
    reached = (
        f"{backbone} reaches a mean average precision of {metrics.mean_ap:.3f} on {metrics.num_samples:,} "
        f"{metrics.split} images"
    )
    if metrics.mean_ap_low == metrics.mean_ap_high:
        # As after a run without a mistake: what the bootstrap draws from holds nothing that could be missed.
        return f"{reached}; every resample of them gives the same, so how far it may be from the true one is not known."
    return (
        f"{reached}; with 95\u202f% confidence the true one lies between {metrics.mean_ap_low:.3f} and "
        f"{metrics.mean_ap_high:.3f}."
    )


def _strengths(metrics: MultiLabelMetrics) -> str:
    held = {name: figures["ap"] for name, figures in metrics.per_class.items() if "ap" in figures}
    exact = f"It says exactly the classes of {verdict.percent(metrics.exact_match)} of the images."
    best, worst = max(held, key=held.__getitem__), min(held, key=held.__getitem__)
    if held[best] == held[worst]:
        return exact
    return f"It is best at “{best}” (AP {held[best]:.3f}) and weakest at “{worst}” (AP {held[worst]:.3f}). {exact}"


def _tiles(metrics: MultiLabelMetrics) -> list[dict[str, str]]:
    between = f"{metrics.mean_ap_low:.3f} to {metrics.mean_ap_high:.3f}"
    about = f"95\u202f% interval {between}" if metrics.mean_ap_low < metrics.mean_ap_high else "no interval is known"
    return [
        {"name": "mAP", "value": f"{metrics.mean_ap:.3f}", "about": about},
        {"name": "Micro F1", "value": f"{metrics.micro_f1:.3f}", "about": "every answer counts the same"},
        {"name": "Macro F1", "value": f"{metrics.macro_f1:.3f}", "about": "every class counts the same"},
        {"name": "Exact", "value": verdict.percent(metrics.exact_match), "about": "all classes of an image right"},
        {"name": "Loss", "value": f"{metrics.loss:.3f}", "about": "mean binary cross-entropy, nats"},
        {"name": "Test images", "value": f"{metrics.num_samples:,}", "about": f"{len(metrics.per_class):,} classes"},
    ]


def _notes(metrics: MultiLabelMetrics, history: dict[str, list[float]]) -> list[str]:
    """What limits the verdict, most serious first."""
    notes = (_no_better_than_guessing(metrics), _few_images(metrics), _few_of_a_class(metrics), _absent(metrics))
    return [note for note in (*notes, verdict.overfitting(history)) if note]


def _no_better_than_guessing(metrics: MultiLabelMetrics) -> str | None:
    """Scores without meaning give an AP of about the class's share of the images."""
    shares = [figures["support"] / metrics.num_samples for figures in metrics.per_class.values() if figures["support"]]
    guessed = sum(shares) / len(shares)
    if metrics.mean_ap_low > guessed:
        return None
    return f"Guessing would reach a mean average precision of about {guessed:.3f}; the model is not clearly better."


def _few_images(metrics: MultiLabelMetrics) -> str | None:
    if metrics.num_samples >= verdict.FEW_IMAGES:
        return None
    few, width = f"There are only {metrics.num_samples} test images", metrics.mean_ap_high - metrics.mean_ap_low
    return f"{few}: the interval of mAP is {width:.3f} wide." if width else f"{few}."


def _few_of_a_class(metrics: MultiLabelMetrics) -> str | None:
    few = [n for n, figures in metrics.per_class.items() if 0 < figures["support"] < verdict.FEW_IMAGES_OF_A_CLASS]
    if not few:
        return None
    return (
        f"{len(few):,} of {len(metrics.per_class):,} classes have fewer than {verdict.FEW_IMAGES_OF_A_CLASS} test "
        "images; one image more or less moves their figures visibly."
    )


def _absent(metrics: MultiLabelMetrics) -> str | None:
    absent = [name for name, figures in metrics.per_class.items() if not figures["support"]]
    if not absent:
        return None
    return (
        f"{len(absent):,} of {len(metrics.per_class):,} classes have no test image: nothing is known of them, and the "
        "mean average precision leaves them out."
    )

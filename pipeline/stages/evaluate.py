"""Stage evaluate: predicts the test split once, computes every figure from that, draws the report."""

import contextlib

from pipeline import params
from pipeline.artifacts import Index, Run, read_history
from pipeline.errors import ArtifactError
from pipeline.findings import Audit, AuditPictures
from pipeline.metrics import MultiLabelMetrics
from pipeline.stages import layout
from pipeline.stages.publish import publishing

SPLIT = "test"


def evaluate(evaluation: params.Evaluation, loading: params.Loading) -> None:
    index, run = Index.read(layout.INDEX, "shard"), Run.read(layout.RUN, "train")
    history = read_history(layout.HISTORY)
    audit = Audit.read(layout.AUDIT, "shard")
    pictures = AuditPictures.read(layout.AUDIT_PICTURES, "shard")
    _check_data(index, run)

    from pipeline.registry import export

    exported = export.load(layout.MODEL)
    _check_classes(exported.classes, index.classes)

    from pipeline.evaluation.labels_report import render_labels
    from pipeline.evaluation.report import Evaluated, render
    from pipeline.evaluation.samples import read_images, read_samples
    from pipeline.loading.read import SplitReader

    with contextlib.closing(SplitReader(layout.INDEX, SPLIT, loading.cache_bytes)) as reader:
        samples = read_samples(reader.opened, index, SPLIT)
        batches = _batches(exported, reader, evaluation)
        judge = _judge_labels if index.multi_label else _judge_classes
        table, metrics, mistakes = judge(
            exported, batches, samples, index, evaluation, lambda keys: read_images(reader.opened, index, SPLIT, keys)
        )
    evaluated = Evaluated(table, samples, metrics, index, run, history, mistakes, audit, pictures, exported.mirror)
    _publish(table, metrics, render_labels(evaluated) if index.multi_label else render(evaluated), index)
    _summarise(metrics)


def _check_data(index: Index, run: Run) -> None:
    """Raises ArtifactError when there is nothing to test on, or the run saw other data."""
    if not index.splits.get(SPLIT) or index.num_samples(SPLIT) == 0:
        raise ArtifactError(
            f"{layout.INDEX} has no {SPLIT} samples, so nothing can be measured; raise split.test_fraction in "
            f"{layout.PARAMS} or give the source a {SPLIT} split, then run `dvc repro`."
        )
    if index.multi_label and not any(index.class_counts(SPLIT)):
        raise ArtifactError(
            f"None of the {index.num_samples(SPLIT)} {SPLIT} samples of {layout.INDEX} has a class, so mAP is not "
            f"defined; raise split.test_fraction in {layout.PARAMS}, or give the {SPLIT} split images with classes."
        )
    if run.index_digest != index.digest:
        raise ArtifactError(
            f"{layout.RUN} was trained on the shards {run.index_digest[:12]}, {layout.INDEX} describes "
            f"{index.digest[:12]}: figures would mix two data sets; run `convoy train` (or `dvc repro`), then evaluate."
        )


def _check_classes(of_model: list[str], of_index: list[str]) -> None:
    """Raises ArtifactError unless the labels mean the same; order counts."""
    if list(of_model) == list(of_index):
        return
    differs = next((i for i, (a, b) in enumerate(zip(of_model, of_index, strict=False)) if a != b), None)
    at = "" if differs is None else f" (label {differs} is {of_model[differs]!r} there, {of_index[differs]!r} here)"
    raise ArtifactError(
        f"{layout.MODEL} was trained on {len(of_model)} classes that are not the {len(of_index)} of "
        f"{layout.INDEX}{at}; run `convoy train` (or `dvc repro`), then evaluate."
    )


def _batches(exported, reader, evaluation: params.Evaluation):
    import os

    from pipeline.loading.batches import split_batches

    return split_batches(
        reader,
        input_px=exported.input_px,
        batch_size=evaluation.batch_size,
        num_workers=len(os.sched_getaffinity(0)),
    )


def _judge_classes(exported, batches, samples, index: Index, evaluation: params.Evaluation, read_images) -> tuple:
    """Predictions, figures and mistakes."""
    from pipeline.evaluation.gallery import surest_mistakes
    from pipeline.evaluation.metrics import measure
    from pipeline.evaluation.predict import join, predict

    predictions = predict(
        exported.model, batches, temperature=exported.temperature, top_k=evaluation.top_k, **_answering(exported)
    )
    table = join(predictions, samples)
    metrics = measure(table, index.classes, split=SPLIT, index_digest=index.digest, weights_sha256=exported.sha256)
    return table, metrics, surest_mistakes(table, index.classes, evaluation.num_mistakes, read_images)


def _judge_labels(exported, batches, samples, index: Index, evaluation: params.Evaluation, read_images) -> tuple:
    """As `_judge_classes`, of a multi-label set."""
    from pipeline.evaluation.gallery import surest_wrong_answers
    from pipeline.evaluation.labels import measure_labels, predict_labels
    from pipeline.evaluation.predict import join

    thresholds = exported.thresholds
    predictions = predict_labels(exported.model, batches, thresholds=thresholds, **_answering(exported))
    table = join(predictions, samples)
    metrics = measure_labels(
        table, index.classes, thresholds, split=SPLIT, index_digest=index.digest, weights_sha256=exported.sha256
    )
    return table, metrics, surest_wrong_answers(table, index.classes, thresholds, evaluation.num_mistakes, read_images)


def _answering(exported) -> dict:
    import torch

    return {
        "classes": exported.classes,
        "mean": exported.mean,
        "std": exported.std,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def _publish(table, metrics, page: str, index: Index) -> None:
    import pyarrow.parquet as pq

    from pipeline.evaluation.plots import write_confusion

    with publishing(layout.REPORT) as [folder]:
        folder.mkdir()
        metrics.write(folder / layout.METRICS.name)
        pq.write_table(table, folder / layout.PREDICTIONS.name, compression="zstd")
        if not index.multi_label:
            write_confusion(folder / layout.CONFUSION.name, table, index.classes)
        (folder / layout.PAGE.name).write_text(page, encoding="utf-8")


def _summarise(metrics) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if isinstance(metrics, MultiLabelMetrics):
        console.print(
            f"evaluate: mAP {metrics.mean_ap:.4f} (95 % interval {metrics.mean_ap_low:.4f} to "
            f"{metrics.mean_ap_high:.4f}), micro F1 {metrics.micro_f1:.3f}, all classes right for "
            f"{metrics.exact_match:.2%} of {metrics.num_samples:,} test images"
        )
        console.print(f"report: {layout.PAGE}")
        return
    console.print(
        f"evaluate: top-1 {metrics.top1:.2%} (95 % interval {metrics.top1_low:.2%} to {metrics.top1_high:.2%}), "
        f"macro F1 {metrics.macro_f1:.3f}, loss {metrics.loss:.3f} on {metrics.num_samples:,} test images"
    )
    console.print(f"report: {layout.PAGE}")

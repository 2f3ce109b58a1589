"""One pass of a model over a split, as a table with a row per sample. Everything else is computed from that table.

Shapes: B samples of a batch, C channels, H and W pixels, K classes, N samples of the split.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from pipeline.errors import ArtifactError, ModelError
from pipeline.evaluation.samples import SLICE


class Batch(Protocol):
    """What a loader hands out. Rows with a False mask are padding."""

    images_BCHW: torch.Tensor
    labels_B: torch.Tensor
    mask_B: torch.Tensor
    keys_B: np.ndarray


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    temperature: float,
    top_k: int,
    device: torch.device | str,
) -> pa.Table:
    """A row per sample that is no padding, sorted by key; the class names lie in the schema's metadata.

    Columns: key, label, predicted, correct, probability (of the predicted class), label_probability, loss (nats),
    rank (of the label, 1 is best), top_labels and top_probabilities (the min(top_k, K) best, best first).
    `model` takes normalised float images (see `answers`), its logits are divided by `temperature`.

    Raises ModelError when a logit is no number.
    """
    parts = []
    for keys_B, logits_BK, labels_B in answers(model, batches, mean=mean, std=std, device=device):
        columns = _columns(logits_BK / temperature, labels_B, top_k)
        check_finite(keys_B, columns["loss"])
        parts.append({"key": keys_B, **columns})
    return _table(parts, classes)


@torch.inference_mode()
def answers(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Keys, logits and labels of the samples of each batch that are no padding; keys as uint64, the others on `device`.

    `mean` and `std` are per channel for pixels scaled to 0..1 by the largest value of their type.
    """
    model = model.to(device=device, memory_format=torch.channels_last)
    mean_C11, std_C11 = (
        torch.tensor(each, dtype=torch.float32, device=device).reshape(-1, 1, 1) for each in (mean, std)
    )
    for batch in batches:
        scale_C11 = 1.0 / (torch.iinfo(batch.images_BCHW.dtype).max * std_C11)
        images_BCHW = batch.images_BCHW.to(device, non_blocking=True).to(torch.float32)
        logits_BK = model(torch.addcmul(-mean_C11 / std_C11, images_BCHW, scale_C11))
        mask_B = batch.mask_B.to(device)
        keys_B = np.asarray(batch.keys_B, np.uint64)[batch.mask_B.numpy()]
        yield keys_B, logits_BK[mask_B], batch.labels_B.to(device)[mask_B]


def check_finite(keys_B: np.ndarray, losses_B: np.ndarray) -> None:
    """Raises ModelError naming the first sample whose loss is no number."""
    finite_B = np.isfinite(losses_B)
    if not finite_B.all():
        raise ModelError(
            f"The model's answer for sample {keys_B[np.flatnonzero(~finite_B)[0]]} is not a number; its weights are "
            "damaged or training diverged. "
            "Run `convoy verify`; if the data is whole, lower optimizer.lr and train again."
        )


def join(predictions: pa.Table, samples: pa.Table) -> pa.Table:
    """The predictions with each sample's path after its key and its `slice_` columns at the end.

    Raises ArtifactError when the two do not hold the same samples, each once.
    """
    if not predictions["key"].equals(samples["key"]):
        raise ArtifactError(
            f"{predictions.num_rows} predictions do not match the {samples.num_rows} samples of the tars one to one; "
            "run `convoy verify`, then evaluate again."
        )
    table = predictions.add_column(1, "path", samples["path"])
    for name in samples.column_names:
        if name.startswith(SLICE):
            table = table.append_column(name, samples[name])
    return table


def _columns(logits_BK: torch.Tensor, labels_B: torch.Tensor, top_k: int) -> dict[str, np.ndarray]:
    """Ordered by logits, not by probabilities: those tie when they saturate. Equal logits go by label."""
    logits_BK = logits_BK.double()
    order_BK = logits_BK.sort(dim=1, descending=True, stable=True).indices
    log_probabilities_BK = logits_BK.log_softmax(dim=1)
    label_log_probability_B = log_probabilities_BK.gather(1, labels_B[:, None])[:, 0]
    top_BT = order_BK[:, :top_k]
    columns = {
        "label": labels_B,
        "predicted": order_BK[:, 0],
        "correct": order_BK[:, 0] == labels_B,
        "probability": log_probabilities_BK.gather(1, order_BK[:, :1])[:, 0].exp(),
        "label_probability": label_log_probability_B.exp(),
        "loss": -label_log_probability_B,
        "rank": (order_BK == labels_B[:, None]).int().argmax(dim=1) + 1,
        "top_labels": top_BT,
        "top_probabilities": log_probabilities_BK.gather(1, top_BT).exp(),
    }
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _table(parts: list[dict[str, np.ndarray]], classes: Sequence[str]) -> pa.Table:
    schema = pa.schema(
        [
            ("key", pa.uint64()), ("label", pa.int32()), ("predicted", pa.int32()), ("correct", pa.bool_()),
            ("probability", pa.float64()), ("label_probability", pa.float64()), ("loss", pa.float64()),
            ("rank", pa.int32()), ("top_labels", pa.list_(pa.int32())), ("top_probabilities", pa.list_(pa.float64())),
        ],
        metadata={"classes": json.dumps(list(classes))},
    )  # fmt: skip
    if not parts:
        return schema.empty_table()
    columns = {name: np.concatenate([part[name] for part in parts]) for name in schema.names}
    order_N = np.argsort(columns["key"], kind="stable")
    arrays = [as_array(columns[field.name][order_N], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def as_array(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """A list a row, where `values` have two dimensions."""
    if values.ndim == 1:
        return pa.array(values).cast(kind)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)).cast(kind.value_type))

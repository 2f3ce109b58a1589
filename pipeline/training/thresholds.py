"""From which probability on a multi-label model says that an image has a class: chosen on the validation split."""

import contextlib

import numpy as np
import torch

from pipeline import ranking
from pipeline.loading.batches import split_batches
from pipeline.loading.read import SplitReader
from pipeline.modeling import backbone, objective
from pipeline.training.network import build_network
from pipeline.training.task import Place, Task

DEFAULT = 0.5
"""Of a class that no validation image has."""


@torch.inference_mode()
def choose_thresholds(task: Task, place: Place, weights: dict[str, torch.Tensor]) -> list[float]:
    """One a class, for the highest F1 that a network with these weights has on the validation split, which this rank
    looks at alone; none at all for a set whose images have one class each."""
    loading = task.loading
    with contextlib.closing(SplitReader(task.index_path, "validation", loading.cache_bytes)) as reader:
        index = reader.index
        if not index.multi_label:
            return []
        if not reader.num_samples:
            return [DEFAULT] * len(index.classes)
        # One of its own: the trained one may lie in parts on all ranks.
        network = build_network(task, index, is_fresh=False)
        network.load_state_dict(weights)
        network = backbone.answering(network.to(place.device).eval(), task.model.mirror)
        mean_C, std_C = (torch.tensor(values, device=place.device) for values in (index.mean, index.std))
        parts = []
        for batch in split_batches(
            reader,
            input_px=task.model.input_px,
            batch_size=loading.global_batch_size // place.world_size,
            num_workers=loading.workers_per_rank,
        ):
            images_BCHW = objective.normalize(batch.images_BCHW.to(place.device), mean_C, std_C)
            probabilities_BK = network(images_BCHW).double().sigmoid().cpu()
            parts.append((probabilities_BK[batch.mask_B].numpy(), batch.labels_B[batch.mask_B].numpy()))
    probabilities_NK, hot_NK = map(np.concatenate, zip(*parts, strict=True))
    return ranking.best_thresholds(probabilities_NK, hot_NK, DEFAULT).tolist()

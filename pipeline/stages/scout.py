"""`convoy scout`: several backbones with frozen weights on some of the training images, before one is trained."""

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ParamsError
from pipeline.stages import layout, weights
from pipeline.stages.task import run_root

if TYPE_CHECKING:
    import torch

IMAGES_PER_BATCH = 64


def scout(candidates: list[str], num_samples: int, as_json: bool) -> None:
    """Prints a row for each `backbone` or `backbone=weights`: the best linear probe first, then the best k-NN."""
    import torch

    from pipeline.evaluation import scouting

    sections = params.read(layout.PARAMS, ["model", "training", "loading", "cluster", "tracking"])
    index = Index.read(layout.INDEX, made_by="shard")
    if index.multi_label:
        raise ArtifactError(
            f"{layout.INDEX} is a multi-label set, and the linear probe and k-NN of `convoy scout` tell one class from "
            "the others; compare backbones by short runs (loading.subset_fraction, `convoy sweep`)."
        )
    images_NCHW, labels_N = _images(index, sections, num_samples)
    if len(labels_N) < 2:
        raise ParamsError(f"--samples {num_samples} leaves {len(labels_N)} images; some are to fit and some to judge.")
    found = []
    for candidate in candidates:
        name, _, source = candidate.partition("=")
        own = {"options": {}} if name != sections["model"].backbone else {}
        model = sections["model"].model_copy(update={"backbone": name, "weights": source or "none", **own})
        torch.manual_seed(sections["training"].seed)
        network = _network(model, index, sections)
        started = time.process_time()
        features_NF = _features(network, images_NCHW, index)
        seconds = time.process_time() - started
        seen = (features_NF, labels_N, len(index.classes))
        found.append(
            {
                "backbone": name,
                "weights": model.weights,
                "probe_top1": round(scouting.top1(scouting.probe_right, *seen), 4),
                "knn_top1": round(scouting.top1(scouting.knn_right, *seen), 4),
                "cpu_ms_per_image": round(1e3 * seconds / len(labels_N), 3),
                "weights_mb": round(sum(p.numel() for p in network.parameters()) * 4 / 1e6, 2),
                "activations_mb_per_image": round(_activation_bytes(network, images_NCHW[:1]) / 1e6, 2),
            }
        )
    found.sort(key=lambda row: (row["probe_top1"], row["knn_top1"]), reverse=True)
    _print(found, len(labels_N), as_json)


def _images(index: Index, sections: dict, num_samples: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """Pixels and labels of training samples that the run's seed draws, as evaluation sees them."""
    from pipeline.loading.augment import Augmentation
    from pipeline.loading.batches import training_batches
    from pipeline.loading.order import order
    from pipeline.loading.read import SplitReader

    untouched = Augmentation((1.0, 1.0), (1.0, 1.0), horizontal_flip=False, vertical_flip=False, color_jitter=0.0)
    loading = sections["loading"]
    with contextlib.closing(SplitReader(layout.INDEX, "train", loading.cache_bytes)) as reader:
        drawn = order(
            reader.shard_sizes,
            seed=sections["training"].seed,
            epoch=0,
            digest=index.digest,
            global_batch_size=min(num_samples, reader.num_samples),
        )
        batches = training_batches(
            reader,
            drawn,
            untouched,
            input_px=sections["model"].input_px,
            rank=0,
            world_size=1,
            first_step=0,
            num_workers=loading.workers_per_rank,
        )
        with contextlib.closing(batches):
            batch = next(batches)
            return batch.images_BCHW.clone(), batch.labels_B.clone()


def _network(model: params.Model, index: Index, sections: dict) -> "torch.nn.Module":
    from pipeline.modeling import backbone
    from pipeline.modeling import weights as starting

    start = weights.find(model, index.num_channels, sections["tracking"], run_root(sections["cluster"]))
    network = backbone.build(
        model.backbone,
        num_classes=len(index.classes),
        num_channels=index.num_channels,
        input_px=model.input_px,
        options=model.options,
    )
    if start:
        starting.load(network, start, index.classes)
    return network.eval()


def _features(network: "torch.nn.Module", images_NCHW: "torch.Tensor", index: Index) -> "torch.Tensor":
    """What the classifier of the network would see, [N, F] in float32."""
    import torch

    from pipeline.modeling.objective import normalize

    mean_C, std_C = torch.tensor(index.mean), torch.tensor(index.std)
    with torch.inference_mode():
        parts = [
            network.forward_head(network.forward_features(normalize(part, mean_C, std_C)), pre_logits=True).flatten(1)
            for part in images_NCHW.split(IMAGES_PER_BATCH)
        ]
    return torch.cat(parts).clone()


def _activation_bytes(network: "torch.nn.Module", image_1CHW: "torch.Tensor") -> int:
    """What the layers' results take up, all of which training keeps."""
    import torch

    sizes: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, out: sizes.append(out.numel() * out.element_size()))
        for layer in network.modules()
        if not list(layer.children())
    ]
    with torch.inference_mode():
        network(image_1CHW.float())
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def _print(found: list[dict], num_samples: int, as_json: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    if as_json:
        print(json.dumps({"num_samples": num_samples, "found": found}))
        return
    table = Table("backbone", "weights", "probe", "k-NN", "CPU ms an image", "weights MB", "activations MB an image")
    for row in found:
        source = row["weights"] if len(row["weights"]) <= 40 else f"…/{Path(row['weights']).name}"
        figures = (f"{row[key]:.{places}f}" for key, places in zip(list(row)[2:], (3, 3, 2, 2, 2), strict=True))
        table.add_row(row["backbone"], source, *figures)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Cross-validated top-1 of frozen features on {num_samples} training images; the best first.")

"""Steady images a second of a run's training loop on one GPU beside a hand-written loop there; one JSON line.

ResNet-50 at 224 px, bfloat16, channels_last, SGD, random-resized crops and flips. The hand-written loop has its pixels,
drawn at random, on the GPU; ours reads, decodes and crops JPEGs on the processor's cores, keeps a ledger and a log.
Both run in turns. Then the loader alone, by number of threads: how many cores a GPU of that speed needs.

    python benchmarks/gpu.py --photos FOLDER [--compile] [--batch 256] [--threads 1 2 4 8 16]

FOLDER holds .jpg files; without one, photographs are drawn.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from loader import NUM_CLASSES, read_photos, write_shards
from training import ROOT, WARM_STEPS, Rates

sys.path.insert(0, str(ROOT))
SIDE_PX = 224
NUM_LOADER_STEPS = 12
AUGMENT = {
    "crop_scale": (0.08, 1.0), "crop_ratio": (0.75, 1.33), "horizontal_flip": True, "vertical_flip": False,
    "color_jitter": 0.0, "policy": "none",
}  # fmt: skip


def make_task(index_path: Path, folder: Path, backbone: str, batch: int, num_threads: int, compiled: bool):
    from pipeline import params
    from pipeline.training.folder import RunFolder
    from pipeline.training.task import Task

    sections = params.read(ROOT / "params.yaml")
    changes = {
        "loading": {"global_batch_size": batch, "workers_per_rank": num_threads},
        "augment": AUGMENT,
        "model": {"backbone": backbone, "weights": "none", "input_px": SIDE_PX},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "schedule": {},
        "training": {"epochs": 1, "precision": "bf16", "ema_decay": 0.0, "clip_norm": None, "compile": compiled},
    }
    changed = {name: sections[name].model_copy(update=values) for name, values in changes.items()}
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint="benchmark", **changed)


def ours(task) -> float:
    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    rates = Rates()
    train_rank(task, Place(0, 1, "cuda:0"), rates.open)
    return statistics.median(rates.images_per_second)


def by_hand(backbone: str, batch: int, num_steps: int, compiled: bool) -> float:
    import timm
    import torch
    import torch.nn.functional as F

    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda:0")
    images_NCHW = torch.randint(0, 256, (4 * batch, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, device=device)
    images_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
    labels_N = torch.randint(0, NUM_CLASSES, (4 * batch,), device=device)
    model = timm.create_model(backbone, num_classes=NUM_CLASSES).to(device, memory_format=torch.channels_last).train()
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    rates = []
    torch.cuda.synchronize()
    started = time.perf_counter()
    for step in range(num_steps):
        picked = slice(step % 4 * batch, (step % 4 + 1) * batch)
        images_BCHW = images_NCHW[picked].float().div_(255.0).sub_(0.5)
        with torch.autocast("cuda", torch.bfloat16):
            logits_BK = network(images_BCHW)
        loss = F.cross_entropy(logits_BK.float(), labels_N[picked], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (num_steps // 10) == 0:  # as often as ours looks at its losses
            torch.cuda.synchronize()
            now = time.perf_counter()
            rates.append(batch * (num_steps // 10) / (now - started))
            started = now
    return statistics.median(rates[1:])


def loader_rates(index_path: Path, batch: int, threads: list[int]) -> dict[str, float]:
    from pipeline.loading.augment import Augmentation
    from pipeline.loading.batches import training_batches
    from pipeline.loading.order import order
    from pipeline.loading.read import SplitReader

    reader = SplitReader(index_path, "train")
    augmentation = Augmentation(**{name: value for name, value in AUGMENT.items() if name != "policy"})
    steps = order(reader.shard_sizes, seed=0, epoch=0, digest=reader.index.digest, global_batch_size=batch)
    rates = {}
    for num_threads in threads:
        made = training_batches(
            reader, steps, augmentation,
            input_px=SIDE_PX, rank=0, world_size=1, first_step=0, num_workers=num_threads, pinned=True,
        )  # fmt: skip
        for _ in range(WARM_STEPS):
            next(made)
        started = time.perf_counter()
        num_made = sum(1 for _ in itertools.islice(made, max(2, NUM_LOADER_STEPS * num_threads // max(threads))))
        rates[str(num_threads)] = round(num_made * batch / (time.perf_counter() - started))
        made.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"benchmark": "gpu", "gpu": None}))
        return
    rates: dict[str, list[float]] = {"by_hand": [], "ours": []}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        photos = read_photos(arguments.photos)
        write_shards(folder / "shards", [photos[at % len(photos)] for at in range(arguments.steps * arguments.batch)])
        index_path = folder / "shards" / "index.json"
        loader = loader_rates(index_path, arguments.batch, arguments.threads)
        for repeat in range(arguments.repeats):
            model = (arguments.backbone, arguments.batch)
            rates["by_hand"].append(by_hand(*model, arguments.steps, arguments.compile))
            task = make_task(index_path, folder / f"{repeat}", *model, max(arguments.threads), arguments.compile)
            rates["ours"].append(ours(task))
            print(json.dumps(rates), file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        json.dumps(
            {
                "benchmark": "gpu",
                "gpu": torch.cuda.get_device_name(),
                "cores": len(os.sched_getaffinity(0)),
                "backbone": arguments.backbone,
                "batch": arguments.batch,
                "compiled": arguments.compile,
                **{f"{name}_images_per_second": round(value) for name, value in medians.items()},
                "ours_over_by_hand": round(medians["ours"] / medians["by_hand"], 3),
                "loader_images_per_second_by_threads": loader,
            }
        )
    )


if __name__ == "__main__":
    main()

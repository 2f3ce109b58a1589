"""Steady images a second of a run's training loop on one GPU beside a hand-written loop there; one JSON line.

ResNet-50 at 224 px, bfloat16, channels_last, SGD, random-resized crops and flips. The hand-written loop has its pixels,
drawn at random, on the GPU; ours reads, decodes and crops JPEGs on the processor's cores, keeps a ledger and a log.
Both run in turns. Then the loader alone, by number of threads: how many cores a GPU of that speed needs.

    python benchmarks/gpu.py --photos FOLDER [--compile] [--batch 256] [--workers 16] [--threads 1 2 4 8 16]

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
NUM_LOOKS = 10
"""At the loss of the loop by hand: as often as ours does in an epoch."""
NUM_LOADER_STEPS = 12
AUGMENT = {
    "crop_scale": (0.08, 1.0), "crop_ratio": (0.75, 1.33), "horizontal_flip": True, "vertical_flip": False,
    "color_jitter": 0.0, "policy": "none",
}  # fmt: skip


def make_task(index_path: Path, folder: Path, backbone: str, batch: int, num_threads: int, compiled: bool, **training):
    """`training` are further changes to that section."""
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
        "training": {"epochs": 1, "precision": "bf16", "ema_decay": 0.0, "clip_norm": None, "compile": compiled}
        | training,
    }
    changed = {name: sections[name].model_copy(update=values) for name, values in changes.items()}
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint="benchmark", **changed)


class Figures(Rates):
    """A spool that also remembers what the GPU did meanwhile."""

    def __init__(self):
        super().__init__()
        self.fractions: dict[str, list[float]] = {}

    def append(self, step: int, metrics: dict[str, float], epoch: int | None = None) -> None:
        from pipeline.training.phases import PHASES

        super().append(step, metrics, epoch)
        for name in PHASES:
            if f"loader/{name}_fraction" in metrics and step > WARM_STEPS:
                self.fractions.setdefault(name, []).append(metrics[f"loader/{name}_fraction"])


def ours(task) -> tuple[float, dict[str, float]]:
    """Images a second, and the parts of the GPU's time."""
    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    figures = Figures()
    train_rank(task, Place(0, 1, "cuda:0"), figures.open)
    medians = {name: round(statistics.median(values), 3) for name, values in figures.fractions.items()}
    return statistics.median(figures.images_per_second), medians


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
        if (step + 1) % (num_steps // NUM_LOOKS) == 0:
            torch.cuda.synchronize()
            now = time.perf_counter()
            rates.append(batch * (num_steps // NUM_LOOKS) / (now - started))
            started = now
    return statistics.median(rates[1:])


def loader_rate(task) -> float:
    from pipeline.loading.apart import NUM_SLOTS
    from pipeline.loading.read import SplitReader
    from pipeline.training.feed import open_epochs
    from pipeline.training.task import Place

    with open_epochs(task, Place(0, 1, "cuda:0"), SplitReader(task.index_path, "train")) as epochs:
        made = epochs(0, 0)
        for _ in range(NUM_SLOTS):
            next(made)
        started = time.perf_counter()
        num_steps = sum(1 for _ in itertools.islice(made, NUM_LOADER_STEPS))
        return num_steps * task.loading.global_batch_size / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100, help="10 or more")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="loader threads of the run")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of the loader alone")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    if arguments.steps < NUM_LOOKS:
        parser.error(f"--steps {arguments.steps}: losses are looked at {NUM_LOOKS} times, so give {NUM_LOOKS} or more")
    import torch

    if not torch.cuda.is_available():
        print(json.dumps({"benchmark": "gpu", "gpu": None}))
        return
    rates: dict[str, list[float]] = {"by_hand": [], "ours": [], "ours_deterministic": []}
    fractions = {}
    model = (arguments.backbone, arguments.batch)
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        photos = read_photos(arguments.photos)
        write_shards(folder / "shards", [photos[at % len(photos)] for at in range(arguments.steps * arguments.batch)])

        def task(run: str, num_threads: int, **training):
            index_path = folder / "shards" / "index.json"
            return make_task(index_path, folder / run, *model, num_threads, arguments.compile, **training)

        for repeat in range(arguments.repeats):
            rates["by_hand"].append(by_hand(*model, arguments.steps, arguments.compile))
            rate, fractions = ours(task(f"run-{repeat}", arguments.workers))
            rates["ours"].append(rate)
            exact, _ = ours(task(f"exact-{repeat}", arguments.workers, deterministic=True))
            rates["ours_deterministic"].append(exact)
            print(json.dumps(rates | fractions), file=sys.stderr, flush=True)
        loader = {threads: round(loader_rate(task("loader", threads))) for threads in arguments.threads}
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
                "parts_of_the_time": fractions,
                "workers": arguments.workers,
                "loader_images_per_second_by_threads": loader,
            }
        )
    )


if __name__ == "__main__":
    main()

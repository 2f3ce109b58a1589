"""Steady images a second of a run's training loop beside a hand-written PyTorch loop; one JSON line.

ResNet-18 at 64 px, float32, channels_last, AdamW, no augmentation. The hand-written loop has its pixels decoded in
memory; ours reads and decodes JPEGs from tars, keeps a ledger and a log. First with every core and batches of 64, in
turns; then one worker of one thread beside two of them that share each batch of 128, without loader threads, ours and
by hand (DDP over gloo).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
BATCH, SIDE_PX = 64, 64
BATCH_OF_WORLDS = 128
WARM_STEPS = 4


class Rates:
    """A spool that only remembers how fast it went."""

    def __init__(self):
        self.images_per_second: list[float] = []

    def append(self, step: int, metrics: dict[str, float], epoch: int | None = None) -> None:
        if "train/images_per_second" in metrics and step > WARM_STEPS:
            self.images_per_second.append(metrics["train/images_per_second"])

    def open(self, path: Path, position: int) -> "Rates":
        return self


def make_shards(folder: Path, num_steps: int) -> Path:
    """`num_steps` batches of the demo's images; the path of their index."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] |= {"source": "demo"}
    content["demo"] |= {"images_per_class": BATCH * num_steps // 2 + 40}
    content["split"] |= {"validation_fraction": 0.0, "test_fraction": 0.01}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    for stage in ("scan", "shard"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pipeline", stage]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "data" / "shards" / "index.json"


def make_task(index_path: Path, folder: Path, backbone: str, batch: int = BATCH, num_loader_threads: int = 1):
    from pipeline import params
    from pipeline.training.folder import RunFolder
    from pipeline.training.task import Task

    sections = params.read(ROOT / "params.yaml")
    changes = {
        "loading": {"global_batch_size": batch, "workers_per_rank": num_loader_threads},
        "augment": {"crop_scale": (1.0, 1.0), "horizontal_flip": False, "color_jitter": 0.0, "policy": "none"},
        "model": {"backbone": backbone, "weights": "none", "input_px": SIDE_PX},
        "optimizer": {"name": "adamw"},
        "schedule": {},
        "training": {"epochs": 1, "precision": "fp32", "ema_decay": 0.0, "clip_norm": None},
    }
    changed = {name: sections[name].model_copy(update=values) for name, values in changes.items()}
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint="benchmark", **changed)


def ours(index_path: Path, folder: Path, backbone: str) -> float:
    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    rates = Rates()
    train_rank(make_task(index_path, folder, backbone), Place(0, 1, "cpu"), rates.open)
    return statistics.median(rates.images_per_second)


def by_hand(backbone: str, num_steps: int, batch: int = BATCH, world_size: int = 1) -> float:
    """Images a second of the whole world, of which this process trains its part of each batch."""
    import timm
    import torch
    import torch.nn.functional as F

    mine = batch // world_size
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (mine * 8, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=generator)
    labels_N = torch.randint(0, 2, (mine * 8,), generator=generator)
    model = timm.create_model(backbone, num_classes=2).to(memory_format=torch.channels_last).train()
    network = torch.nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rates = []
    for step in range(num_steps):
        started = time.perf_counter()
        picked = slice(step % 8 * mine, (step % 8 + 1) * mine)
        images_BCHW = images_NCHW[picked].float().contiguous(memory_format=torch.channels_last).div_(255.0).sub_(0.5)
        loss = F.cross_entropy(network(images_BCHW), labels_N[picked], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= WARM_STEPS:
            rates.append(batch / (time.perf_counter() - started))
    return statistics.median(rates)


def one_of(
    rank: int, world_size: int, index_path: Path, folder: Path, rate_path: Path, backbone: str, num_steps: int
) -> None:
    """A rank of one thread in a process of its own; rank 0 writes the rates of the world, ours and by hand."""
    import torch

    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    torch.set_num_threads(1)
    if world_size > 1:
        rendezvous = f"file://{rate_path}.{world_size}.rendezvous"
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    rates = Rates()
    task = make_task(index_path, folder, backbone, BATCH_OF_WORLDS, num_loader_threads=0)
    train_rank(task, Place(rank, world_size, "cpu"), rates.open)
    hand = by_hand(backbone, num_steps * BATCH // BATCH_OF_WORLDS, BATCH_OF_WORLDS, world_size)
    if rank == 0:
        rate_path.write_text(json.dumps([statistics.median(rates.images_per_second), hand]))


def world(world_size: int, index_path: Path, folder: Path, backbone: str, num_steps: int) -> tuple[float, float]:
    import torch

    rate_path = folder / "rates"
    arguments = (world_size, index_path, folder / "run", rate_path, backbone, num_steps)
    folder.mkdir()
    torch.multiprocessing.start_processes(one_of, arguments, nprocs=world_size, start_method="forkserver")
    return tuple(json.loads(rate_path.read_text()))


def main(repeats: int, num_steps: int, backbone: str, parts: list[str]) -> dict:
    import torch

    multiprocessing.set_forkserver_preload(["lightning", "timm", "pipeline.training.fit"])
    num_cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_cores)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        index_path = make_shards(folder, num_steps)
        for repeat in range(repeats):
            if "process" in parts:
                rates.setdefault("by_hand", []).append(by_hand(backbone, num_steps))
                rates.setdefault("ours", []).append(ours(index_path, folder / f"run-{repeat}", backbone))
            for size, name in ((1, "one_worker"), (2, "two_workers")) if "workers" in parts else ():
                both = world(size, index_path, folder / f"world-{size}-{repeat}", backbone, num_steps)
                rates.setdefault(f"{name}_ours", []).append(both[0])
                rates.setdefault(f"{name}_by_hand", []).append(both[1])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {
        "ours_over_by_hand": ("ours", "by_hand"),
        "two_over_one_ours": ("two_workers_ours", "one_worker_ours"),
        "two_over_one_by_hand": ("two_workers_by_hand", "one_worker_by_hand"),
    }
    return {
        "cores": num_cores,
        "backbone": backbone,
        **{f"{name}_images_per_second": round(value, 1) for name, value in medians.items()},
        **{name: round(medians[one] / medians[other], 3) for name, (one, other) in ratios.items() if one in medians},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="steps of 64 images a repeat")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--parts", nargs="+", choices=("process", "workers"), default=["process", "workers"])
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.repeats, arguments.steps, arguments.backbone, arguments.parts)))

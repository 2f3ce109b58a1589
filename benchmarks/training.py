"""Steady images a second of a run's training loop beside a hand-written PyTorch loop; one JSON line.

ResNet-18 at 64 px, float32, channels_last, AdamW, batch 64, no augmentation. The hand-written loop has its pixels
decoded in memory; ours reads and decodes JPEGs from tars, keeps a ledger and a log. Both use every core; they take
turns. Then one worker of one thread beside two of them that share each batch of 128.
"""

import argparse
import json
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
BATCH, SIDE_PX, STEPS = 64, 64, 40
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


def make_shards(folder: Path) -> Path:
    """STEPS batches of the demo's images; the path of their index."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["data"] |= {"source": "demo"}
    content["demo"] |= {"images_per_class": BATCH * STEPS // 2 + 40}
    content["split"] |= {"validation_fraction": 0.0, "test_fraction": 0.01}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    for stage in ("scan", "shard"):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "pipeline", stage]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder / "data" / "shards" / "index.json"


def make_task(index_path: Path, folder: Path, batch: int = BATCH):
    from pipeline import params
    from pipeline.training.folder import RunFolder
    from pipeline.training.task import Task

    sections = params.read(ROOT / "params.yaml")
    changes = {
        "loading": {"global_batch_size": batch, "workers_per_rank": 1},
        "augment": {"crop_scale": (1.0, 1.0), "horizontal_flip": False, "color_jitter": 0.0, "policy": "none"},
        "model": {"backbone": "resnet18", "weights": "none", "input_px": SIDE_PX},
        "optimizer": {"name": "adamw"},
        "schedule": {},
        "training": {"epochs": 1, "precision": "fp32", "ema_decay": 0.0, "clip_norm": None},
    }
    changed = {name: sections[name].model_copy(update=values) for name, values in changes.items()}
    return Task(run=RunFolder(folder), index_path=index_path, fingerprint="benchmark", **changed)


def ours(index_path: Path, folder: Path) -> float:
    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    rates = Rates()
    train_rank(make_task(index_path, folder), Place(0, 1, "cpu"), rates.open)
    return statistics.median(rates.images_per_second)


def by_hand() -> float:
    import timm
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (BATCH * STEPS, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=generator)
    labels_N = torch.randint(0, 2, (BATCH * STEPS,), generator=generator)
    model = timm.create_model("resnet18", num_classes=2).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rates = []
    for step in range(STEPS):
        started = time.perf_counter()
        picked = slice(step * BATCH, (step + 1) * BATCH)
        images_BCHW = images_NCHW[picked].float().contiguous(memory_format=torch.channels_last).div_(255.0).sub_(0.5)
        loss = F.cross_entropy(model(images_BCHW), labels_N[picked], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= WARM_STEPS:
            rates.append(BATCH / (time.perf_counter() - started))
    return statistics.median(rates)


def one_of(rank: int, world_size: int, index_path: Path, folder: Path, rate_path: Path) -> None:
    """A rank of one thread in a process of its own; rank 0 writes the rate of the world."""
    import torch

    from pipeline.training.fit import train_rank
    from pipeline.training.task import Place

    torch.set_num_threads(1)
    if world_size > 1:
        rendezvous = f"file://{rate_path}.{world_size}.rendezvous"
        torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    rates = Rates()
    train_rank(make_task(index_path, folder, BATCH_OF_WORLDS), Place(rank, world_size, "cpu"), rates.open)
    if rank == 0:
        rate_path.write_text(str(statistics.median(rates.images_per_second)))


def main(repeats: int) -> dict:
    import torch

    num_cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_cores)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        index_path = make_shards(folder)
        ours_rates, hand_rates = [], []
        for repeat in range(repeats):
            hand_rates.append(by_hand())
            ours_rates.append(ours(index_path, folder / f"run-{repeat}"))
        worlds = {size: world(size, index_path, folder) for size in (1, 2)}
    return {
        "cores": num_cores,
        "ours_images_per_second": round(statistics.median(ours_rates), 1),
        "by_hand_images_per_second": round(statistics.median(hand_rates), 1),
        "ours_over_by_hand": round(statistics.median(ours_rates) / statistics.median(hand_rates), 3),
        "one_worker_images_per_second": round(worlds[1], 1),
        "two_workers_images_per_second": round(worlds[2], 1),
        "two_over_one": round(worlds[2] / worlds[1], 2),
    }


def world(world_size: int, index_path: Path, folder: Path) -> float:
    import torch

    rate_path = folder / f"rate-{world_size}"
    run = folder / f"world-{world_size}"
    torch.multiprocessing.spawn(one_of, (world_size, index_path, run, rate_path), nprocs=world_size)
    return float(rate_path.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    print(json.dumps(main(parser.parse_args().repeats)))

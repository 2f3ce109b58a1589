"""What a rank holds under ddp and under fsdp2: megabytes of weights, gradients, average and optimizer state, and
what its process has in memory before them, after a few steps, and at most; one JSON line. Ranks talk by gloo.

    python benchmarks/fsdp2.py [--backbone vit_small_patch16_224] [--input-px 64] [--ranks 2] [--steps 3]
"""

import argparse
import json
import os
import resource
import tempfile
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from pipeline.modeling import backbone, optimizer
from pipeline.training.task import Place
from pipeline.training.trained import Trained

BATCH_SIZE_PER_RANK = 4
NUM_CLASSES = 10
MB = 1e6


def main() -> None:
    arguments = _arguments()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # of the ranks: else their C library keeps what splitting frees
    results = {strategy: measure(strategy, arguments) for strategy in ("ddp", "fsdp2")}
    facts = {name: getattr(arguments, name) for name in ("backbone", "input_px", "ranks", "steps")}
    print(json.dumps({"benchmark": "fsdp2", "cores": len(os.sched_getaffinity(0)), **facts, "results": results}))


def measure(strategy: str, arguments: argparse.Namespace) -> dict[str, float]:
    """The largest figures of any rank, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (strategy, arguments, folder), nprocs=arguments.ranks)
        found = [json.loads(path.read_text()) for path in Path(folder).glob("rank-*")]
    return {name: max(each[name] for each in found) for name in found[0]}


def _rank(rank: int, strategy: str, arguments: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=arguments.ranks
    )
    torch.manual_seed(0)
    network = backbone.build(arguments.backbone, num_classes=NUM_CLASSES, input_px=arguments.input_px)
    before = _resident_mb()
    trained = Trained(network, ema_decay=0.99, compiled=False, mirror=False, rank=rank)
    if strategy == "fsdp2":
        trained.split(Place(rank, arguments.ranks, "cpu"))
        step = network
    else:
        step = torch.nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=False)
    made = optimizer.build(network, name="adamw", lr=1e-3, weight_decay=0.05, momentum=0.9)
    for _ in range(arguments.steps):
        images_BCHW = torch.randn(BATCH_SIZE_PER_RANK, 3, arguments.input_px, arguments.input_px)
        step(images_BCHW).square().mean().backward()
        made.step()
        held = _held_mb(trained, made)
        trained.update()
        made.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"held_mb": round(held, 2), "start_mb": round(before), "end_mb": round(_resident_mb())}
    figures["peak_mb"] = round(peak)
    Path(folder, f"rank-{rank}").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


def _held_mb(trained: Trained, made: torch.optim.Optimizer) -> float:
    kept = [*trained.network.parameters(), *trained.evaluated.parameters()]
    kept += [parameter.grad for parameter in trained.network.parameters()]
    kept += [value for each in made.state.values() for value in each.values() if isinstance(value, torch.Tensor)]
    mine = (each.to_local() if isinstance(each, DTensor) else each for each in kept)
    return sum(each.numel() * each.element_size() for each in mine) / MB


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024**2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--input-px", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()

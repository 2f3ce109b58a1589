"""How long a step stands still for a checkpoint, beside how long writing one takes; one JSON line.

The state is that of a backbone with AdamW and an average: four times its weights.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make_state(backbone: str) -> dict:
    import timm
    import torch

    weights = timm.create_model(backbone, num_classes=1000).state_dict()
    average = {name: value.clone() for name, value in weights.items()}
    moments = {name: [torch.rand_like(value), torch.rand_like(value)] for name, value in weights.items() if value.ndim}
    return {"position": 1, "network": weights, "average": average, "optimizer": moments}


def num_bytes(state: dict) -> int:
    moments = (moment for both in state["optimizer"].values() for moment in both)
    return sum(value.nbytes for value in (*state["network"].values(), *state["average"].values(), *moments))


def seconds_of(work: Callable[[], object]) -> tuple[float, float]:
    """By the clock, and of this thread on a core, which other work on the machine disturbs less."""
    by_clock, on_core = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - by_clock, time.thread_time() - on_core


def medians(name: str, seconds: list[tuple[float, float]]) -> dict[str, float]:
    by_clock, on_core = (round(statistics.median(values), 3) for values in zip(*seconds, strict=True))
    return {f"{name}_seconds": by_clock, f"{name}_cpu_seconds": on_core}


def main(backbone: str, repeats: int) -> dict:
    import torch

    from pipeline.training import checkpoint
    from pipeline.training.saving import Moment, Saver

    torch.set_num_threads(1)
    state = make_state(backbone)
    written, stalled = [], []
    with tempfile.TemporaryDirectory() as temporary:
        saver = Saver(Path(temporary) / "thread", fingerprint="f", every_seconds=0.0, keep=1, say=print)
        for _ in range(repeats):
            written.append(seconds_of(lambda: checkpoint.save(Path(temporary) / "step", 1, state, keep=1)))
            stalled.append(seconds_of(lambda: saver.save(lambda: state, Moment.LAST)))
            saver.finish()
    return {
        "backbone": backbone,
        "state_megabytes": round(num_bytes(state) / 1e6),
        **medians("written", written),
        **medians("first_stall", stalled[:1]),
        **medians("stall", stalled[1:]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.backbone, max(2, arguments.repeats))))

"""Time and memory to start an epoch of 10^9 samples in 10^5 shards, and to resume it anywhere; one JSON line.

The shards' sizes vary by a tenth; windows hold 10^6 samples, lanes are 64. Memory is the peak of the whole process,
Python and numpy with it.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
GLOBAL_BATCH_SIZE, LANES, WINDOW = 4096, 64, 10**6


def start_and_resume(num_samples: int, num_shards: int, repeats: int) -> dict:
    import numpy as np

    from pipeline.loading.order import order

    sizes = np.random.default_rng(0).integers(-50, 51, num_shards) * (num_samples // num_shards) // 1000
    sizes += num_samples // num_shards

    def steps_of(epoch: int):
        return order(
            sizes, seed=0, epoch=epoch, digest="d", global_batch_size=GLOBAL_BATCH_SIZE, lanes=LANES, window=WINDOW
        )

    started = time.perf_counter()
    first = steps_of(0)
    first.step(0)
    start_seconds = time.perf_counter() - started
    places = {"0": 0, "middle": first.num_steps // 2, "last": first.num_steps - 1}
    seconds: dict[str, list[float]] = {name: [] for name in places}
    for repeat in range(repeats):
        for name, step in places.items():
            started = time.perf_counter()
            steps_of(repeat + 1).step(step)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "samples": int(sizes.sum()),
        "shards": num_shards,
        "steps": first.num_steps,
        "start_seconds": round(start_seconds, 4),
        "resume_seconds": {name: round(median, 4) for name, median in medians.items()},
        "resume_over_start": {name: round(median / medians["0"], 3) for name, median in medians.items()},
        "peak_mb": round(_peak_kb() / 1024),
    }


def _peak_kb() -> int:
    """Not getrusage's: a process inherits that figure from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--shards", type=int, default=10**5)
    parser.add_argument("--repeats", type=int, default=15)
    asked = parser.parse_args()
    print(json.dumps({"benchmark": "order", **start_and_resume(asked.samples, asked.shards, asked.repeats)}))

"""Time and memory to start an epoch of 10^9 samples in 10^5 shards and to resume it anywhere, and what windows cost in
shuffling; one JSON line.

The shards' sizes vary by a tenth; windows hold 10^6 samples, lanes are 64. Memory is the peak of the whole process,
Python and numpy with it. A resume's time is the CPU's, beside step 0's in the same repeat; of the ratios the median
counts. Shuffling is told by the mean entropy of a batch's labels beside that of a full shuffle: for a source sorted by
class, as sharding lays it into tars, and for tars of one class each, which no window can mix.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
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
    places = {"middle": first.num_steps // 2, "last": first.num_steps - 1}
    ratios: dict[str, list[float]] = {name: [] for name in places}
    seconds = []
    for repeat in range(repeats):
        steps = dict(
            sorted({"0": 0, **places}.items(), reverse=repeat % 2 == 1)
        )  # whoever is first pays for cold caches
        spent = {
            name: _cpu_seconds(lambda step=step, epoch=repeat + 1: steps_of(epoch).step(step))
            for name, step in steps.items()
        }
        seconds.append(spent["0"])
        for name in places:
            ratios[name].append(spent[name] / spent["0"])
    return {
        "samples": int(sizes.sum()),
        "shards": num_shards,
        "steps": first.num_steps,
        "start_seconds": round(start_seconds, 4),
        "step_0_cpu_seconds": round(statistics.median(seconds), 4),
        "resume_over_step_0": {name: round(statistics.median(each), 3) for name, each in ratios.items()},
        "peak_mb": round(_peak_kb() / 1024),
    }


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def label_entropy(num_classes: int, samples_per_class: int, samples_per_shard: int, batch: int) -> dict:
    """Of batches under the remote window, as a fraction of a full shuffle's."""
    import numpy as np

    from pipeline.loading.order import REMOTE_WINDOW_SAMPLES, order
    from pipeline.sharding.plan import plan_shards

    by_class = np.repeat(np.arange(num_classes), samples_per_class)
    contents = np.random.default_rng(0).integers(0, 2**63, len(by_class)).astype(np.uint64)
    planned = plan_shards(np.zeros(len(by_class), np.int8), contents, samples_per_shard, seed=0)
    sizes = [len(shard.rows) for shard in planned]
    as_sharded = by_class[np.concatenate([shard.rows for shard in planned])]

    def mean_entropy(labels: np.ndarray, window: int | None) -> float:
        steps = order(sizes, seed=0, epoch=0, digest="d", global_batch_size=batch, window=window)
        every = max(1, steps.num_steps // 500)
        return statistics.mean(_entropy(labels[steps.step(step)]) for step in range(0, steps.num_steps, every))

    full = mean_entropy(as_sharded, None)
    windowed = {"sharded": as_sharded, "tars_of_one_class": by_class}
    figures = {name: round(mean_entropy(labels, REMOTE_WINDOW_SAMPLES) / full, 4) for name, labels in windowed.items()}
    return {"window": REMOTE_WINDOW_SAMPLES, "classes": num_classes, "batch": batch, **figures}


def _entropy(labels) -> float:
    """In nats."""
    import numpy as np

    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


def _peak_kb() -> int:
    """Not getrusage's: a process inherits that figure from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10**9)
    parser.add_argument("--shards", type=int, default=10**5)
    parser.add_argument("--repeats", type=int, default=51)
    asked = parser.parse_args()
    figures = start_and_resume(asked.samples, asked.shards, asked.repeats)
    entropy = label_entropy(num_classes=1000, samples_per_class=256, samples_per_shard=4096, batch=256)
    print(json.dumps({"benchmark": "order", **figures, "label_entropy_over_full_shuffle": entropy}))

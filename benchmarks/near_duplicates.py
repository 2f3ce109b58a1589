"""The search for pictures that look alike, at a million images of which one in a hundred is another's near copy.

Hashes are uniform, or skewed: each bit set with a probability of its own, as in a set of similar pictures. Prints one
JSON line. The bar: under 60 s and 2 GB.
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator

import numpy as np

from pipeline.sharding.alike import group_alike
from pipeline.sharding.inspect import ROWS_PER_READ
from pipeline.sharding.likeness import LIKENESS_DTYPE, THUMB_CELLS

MAX_BITS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    num_images = parser.parse_args().images
    found = {kind: measure(kind, num_images) for kind in ("uniform", "skewed")}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"benchmark": "near_duplicates", "images": num_images, **found, "peak_mb": round(peak_mb)}))


def measure(kind: str, num_images: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**64, num_images, dtype=np.uint64)
    if kind == "skewed":
        hashes = np.zeros(num_images, np.uint64)
        for bit, share in enumerate(random.beta(2, 2, 64)):
            hashes |= (random.random(num_images) < share).astype(np.uint64) << np.uint64(bit)
    thumbs = random.integers(0, 256, (num_images, THUMB_CELLS**2), dtype=np.uint8)
    num_copies = num_images // 100
    originals, copies = random.permutation(num_images)[: 2 * num_copies].reshape(2, -1)
    hashes[copies] = hashes[originals]
    for _ in range(MAX_BITS):
        hashes[copies] ^= np.uint64(1) << random.integers(0, 64, num_copies).astype(np.uint64)
    thumbs[copies] = thumbs[originals]
    started = time.perf_counter()
    groups = group_alike(parts(hashes), np.ones(num_images, bool), thumbs.__getitem__, MAX_BITS)
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "copies_found": float((groups[originals] == groups[copies]).mean()),
        "others_grouped": int(num_images - num_copies - len(np.unique(groups))),
    }


def parts(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """As the shard stage reads them."""
    for start in range(0, len(hashes), ROWS_PER_READ):
        part = np.zeros(len(hashes[start : start + ROWS_PER_READ]), LIKENESS_DTYPE)
        part["hash"], part["contrast"] = hashes[start : start + ROWS_PER_READ], 99
        yield part


if __name__ == "__main__":
    main()

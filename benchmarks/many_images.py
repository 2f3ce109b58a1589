"""Seconds and peak memory of the process tree of scanning, and of scanning and sharding, many small images.

Draws as many different JPEG files as the largest count asks for (8 x 8 px, in 100 class folders), then scans and
shards the first count, the second, and so on, each in a process of its own with two workers. Prints one JSON line.

    python benchmarks/many_images.py --counts 100000 1000000 [--images FOLDER] [--scan-only]
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sharding_run import run_measured, shard_images

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
NUM_CLASSES = 100
SIDE_PX = 8
NUM_WORKERS = 2


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        images = arguments.images or work / "images"
        results = {}
        for count in sorted(arguments.counts):
            draw_images(images, count)
            for done, scan_only in {"scan": True, "scan and shard": arguments.scan_only}.items():
                if done == "scan" or not scan_only:
                    command = [sys.executable, __file__, "--here", images, work / "out", scan_only]
                    results[f"{done} {count}"] = run_measured(command)
                    shutil.rmtree(work / "out", ignore_errors=True)
    print(json.dumps({"benchmark": "many_images", "cores": os.cpu_count(), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--images", type=Path, help="where the images are kept for another run")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--scan-only", action="store_true")
    parser.add_argument("--here", nargs=3, metavar=("IMAGES", "OUT", "SCAN_ONLY"))
    arguments = parser.parse_args()
    if arguments.here:
        images, out, scan_only = arguments.here
        _run_here(Path(images), Path(out), scan_only == "True")
        sys.exit()
    return arguments


def draw_images(folder: Path, count: int) -> None:
    """Adds what is missing; a number always gives the same image."""
    import numpy as np
    import simplejpeg

    for label in range(NUM_CLASSES):
        class_folder = folder / f"{label:03d}"
        class_folder.mkdir(parents=True, exist_ok=True)
        numbers = range(label, count, NUM_CLASSES)
        pixels_NHW3 = np.random.default_rng(label).integers(0, 256, (len(numbers), SIDE_PX, SIDE_PX, 3), np.uint8)
        num_there = sum(1 for _ in os.scandir(class_folder))
        for number, image_HW3 in zip(numbers[num_there:], pixels_NHW3[num_there:], strict=True):
            (class_folder / f"{number:08d}.jpg").write_bytes(simplejpeg.encode_jpeg(image_HW3))


def _run_here(images: Path, out: Path, scan_only: bool) -> None:
    import pipeline.sharding.build  # noqa: F401 - imports are outside the time
    from pipeline.sharding.scan import scan_source
    from pipeline.sharding.tables import TableColumns

    out.mkdir()
    start = time.perf_counter()
    if scan_only:
        by_folders = TableColumns("image", "label", None, None, ())
        scan_source(str(images), by_folders, out / "manifest.parquet", lambda count: None)
    else:
        shard_images(images, out, None, NUM_WORKERS)
    print(json.dumps({"seconds": round(time.perf_counter() - start, 2)}))


if __name__ == "__main__":
    main()

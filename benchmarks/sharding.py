"""Images a second of the shard stage beside `tar` and the FFCV writer on the same photographs, one JSON line.

With original bytes every image is decoded to validate it and hashed; `tar cf` copies. FFCV shrinks to a long side of
256 px, so this stage is measured at a short side of 256 px (more pixels) and of 192 px (as many, of 4:3 photographs).
Two workers, everything in the page cache, each tool in a process of its own, one after the other in every repeat;
medians over the repeats, ratios of medians. Memory is that of the whole process tree, shared pages counted once.

    python benchmarks/sharding.py --photos FOLDER --peers-python /path/to/python
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sharding_run import run_measured, shard_images

REPOSITORY = Path(__file__).resolve().parent.parent
PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "writing.py"
sys.path.insert(0, str(REPOSITORY))
NUM_CLASSES = 10
NUM_WORKERS = 2
SHORT_SIDE_PX = {"original bytes": None, "256 px": 256, "192 px": 192}
RATIOS = {
    "original bytes / tar": ("original bytes", "tar"),
    "original bytes / tar and fsync": ("original bytes", "tar and fsync"),
    "256 px / ffcv": ("256 px", "ffcv"),
    "192 px / ffcv": ("192 px", "ffcv"),
}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        _fill(work / "images", arguments.photos, arguments.images)
        commands = _commands(work, arguments.peers_python)
        missing = {} if arguments.peers_python else {"ffcv": "no --peers-python"}
        seconds: dict[str, list[float]] = {}
        peak_mb: dict[str, list[float]] = {}
        for _ in range(arguments.repeats):
            for tool, command in commands.items():
                answer = run_measured(command)
                if "failed" in answer:
                    missing[tool] = answer["failed"]
                    continue
                seconds.setdefault(tool, []).append(answer["seconds"])
                peak_mb.setdefault(tool, []).append(answer["peak_mb"])
                shutil.rmtree(work / "out", ignore_errors=True)
    rates = {tool: arguments.images / statistics.median(each) for tool, each in seconds.items()}
    print(
        json.dumps(
            {
                "benchmark": "sharding",
                "cores": os.cpu_count(),
                "images": arguments.images,
                "repeats": arguments.repeats,
                "images_per_second": {tool: round(rate) for tool, rate in rates.items()},
                "ratios": {n: round(rates[a] / rates[b], 3) for n, (a, b) in RATIOS.items() if {a, b} <= set(rates)},
                "peak_mb": {tool: round(statistics.median(each)) for tool, each in peak_mb.items()},
                "missing": missing,
            }
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="a folder with .jpg files at any depth; without one they are drawn")
    parser.add_argument("--peers-python", type=Path, help="the Python that has ffcv 1.0.2")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("FORM", "WORK"))
    arguments = parser.parse_args()
    if arguments.measure:
        _measure_here(arguments.measure[0], Path(arguments.measure[1]))
        sys.exit()
    return arguments


def _fill(folder: Path, photos: Path | None, num_images: int) -> None:
    """`num_images` files of their own: tar stores the second of two linked files as a link."""
    contents = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))] if photos else _draw_photos()
    for number in range(num_images):
        path = folder / f"{number % NUM_CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % len(contents)])


def _draw_photos() -> list[bytes]:
    """Forms and grain: about as many bytes a pixel as a photograph."""
    import cv2
    import numpy as np
    import simplejpeg

    random, photos = np.random.default_rng(0), []
    for _ in range(20):
        layers = [(6, 50), (40, 20), (200, 12)]
        scene_HW3 = sum(
            cv2.resize(random.normal(0, size, (rows, rows, 3)), (500, 375), interpolation=cv2.INTER_CUBIC)
            for rows, size in layers
        )
        image_HW3 = np.clip(128 + scene_HW3, 0, 255).astype(np.uint8)
        photos.append(simplejpeg.encode_jpeg(image_HW3, quality=92, colorsubsampling="444"))
    return photos


def _commands(work: Path, peers_python: Path | None) -> dict[str, list]:
    commands = {form: [sys.executable, __file__, "--measure", form, work] for form in SHORT_SIDE_PX}
    for tool in ("tar", "tar and fsync"):
        commands[tool] = [sys.executable, __file__, "--measure", tool, work]
    if peers_python:
        commands["ffcv"] = [peers_python, PEER_SCRIPT, work, str(NUM_WORKERS)]
    return commands


def _measure_here(tool: str, work: Path) -> None:
    out = work / "out"
    out.mkdir()
    if tool in SHORT_SIDE_PX:
        import pipeline.sharding.build  # noqa: F401 - imports are outside the time of every tool
    start = time.perf_counter()
    if tool in SHORT_SIDE_PX:
        shard_images(work / "images", out, SHORT_SIDE_PX[tool], NUM_WORKERS)
    else:
        subprocess.run(["tar", "cf", out / "images.tar", "-C", work, "images"], check=True)
        if tool == "tar and fsync":
            with (out / "images.tar").open("rb") as file:
                os.fsync(file.fileno())
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()

"""Images a second of this loader and of its peers on the same photographs, one JSON line.

Batches of 64 random-resized crops of 224 px, two workers, everything in the page cache; of the set of 32 px batches of
512 whole images, flipped and shifted, and 25 times as many of them. Each repeat runs every loader in a process of its
own, one after the other; figures are medians over the repeats, ratios are taken of medians.

    python benchmarks/loader.py --photos FOLDER --peers-python /path/to/python

FOLDER holds .jpg files at any depth; without one, photographs are drawn. Without peers this loader is measured alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "loading.py"
sys.path[:0] = [str(REPOSITORY), str(PEER_SCRIPT.parent)]
NUM_CLASSES = 10
SHORT_SIDE_PX = 256
SMALL = "32 px"
LOADERS = {
    "original": ("convoy", "ffcv", "dali", "imagefolder", "litdata", "mosaicml", "webdataset"),
    "256 px": (
        "convoy", "convoy_long_side_256", "convoy_decoded_long_side_256", "ffcv_long_side_256",
        "ffcv_raw_long_side_256", "dali", "webdataset",
    ),
    SMALL: ("convoy", "convoy_decoded", "ffcv_small", "ffcv_raw_small"),
}  # fmt: skip
DECODED_CACHE_BYTES = 4_000_000_000
SMALL_IMAGES_EACH = 25


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        sets = {name: Path(work) / name.replace(" ", "-") for name in LOADERS if name in arguments.sets}
        for name, folder in sets.items():
            num_images = arguments.images * (SMALL_IMAGES_EACH if name == SMALL else 1)
            _write_set(folder, read_photos(arguments.photos), name, num_images)
        results = {name: _measure(name, folder, arguments) for name, folder in sets.items()}
    print(json.dumps({"benchmark": "loader", "cores": os.cpu_count(), "repeats": arguments.repeats, "sets": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--sets", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--images", type=int, default=1920)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("LOADER", "SET"))
    arguments = parser.parse_args()
    if arguments.measure:
        _measure_here(*arguments.measure)
        sys.exit()
    return arguments


def read_photos(folder: Path | None) -> list[bytes]:
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    import cv2
    import numpy as np
    import simplejpeg

    random = np.random.default_rng(0)
    # Large forms, small forms and grain: about as many bytes a pixel as a photograph.
    scenes = [
        sum(
            cv2.resize(random.normal(0, size, (rows, rows, 3)), (500, 375), interpolation=cv2.INTER_CUBIC)
            for rows, size in ((6, 50), (40, 20), (200, 12))
        )
        for _ in range(50)
    ]
    pixels = [np.clip(128 + scene, 0, 255).astype(np.uint8) for scene in scenes]
    return [simplejpeg.encode_jpeg(image, quality=92, colorsubsampling="444") for image in pixels]


def _write_set(folder: Path, photos: list[bytes], name: str, num_images: int) -> None:
    """The same photographs as files by class and as two tars, repeated to `num_images`."""
    import simplejpeg

    from pipeline.imaging.decode import decode, read_size
    from pipeline.imaging.region import Region
    from pipeline.imaging.resizing import centre_square, resize
    from pipeline.sharding.encode import encode

    def long_side_256(data: bytes) -> bytes:
        height, width = decode(data).shape[:2]
        return encode(data, max(1, round(256 * min(height, width) / max(height, width))), 90).data

    def square_32(data: bytes) -> bytes:
        square_HWC = Region(*centre_square(*read_size(data))).of(decode(data))
        return simplejpeg.encode_jpeg(resize(square_HWC, 32, 32), quality=90, colorsubsampling="420")

    of_set = {"original": lambda data: encode(data, None, 90).data, SMALL: square_32}
    stored = [of_set.get(name, lambda data: encode(data, SHORT_SIDE_PX, 90).data)(data) for data in photos]
    write_shards(folder / "shards", [stored[at % len(stored)] for at in range(num_images)])
    if name == "256 px":
        limited = [long_side_256(data) for data in photos]
        write_shards(folder / "shards-long-side-256", [limited[at % len(limited)] for at in range(num_images)])
    for at in range(num_images):
        path = folder / "images" / str(at % NUM_CLASSES) / f"{at:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored[at % len(stored)])


def write_shards(folder: Path, images: list[bytes]) -> None:
    import numpy as np

    from pipeline import artifacts
    from pipeline.sample_table import SAMPLE_DTYPE
    from pipeline.sharding.tar import TarWriter

    (folder / "train").mkdir(parents=True)
    shards = []
    for number in range(2):
        rows, name = [], f"train/train-{number:06d}"
        with TarWriter(folder / f"{name}.tar") as tar:
            for key in range(number, len(images), 2):
                offset = tar.add(f"{key:09d}.jpg", images[key])
                tar.add(f"{key:09d}.cls", str(key % NUM_CLASSES).encode())
                json_offset = tar.add(f"{key:09d}.json", b"{}")
                rows.append((key, offset, len(images[key]), json_offset, 2, key % NUM_CLASSES))
        table = folder / f"{name}.npy"
        np.save(table, np.array(rows, SAMPLE_DTYPE))
        counts = [sum(row[5] == label for row in rows) for label in range(NUM_CLASSES)]
        shards.append(
            artifacts.Shard(
                name=name, num_samples=len(rows), num_bytes=tar.num_bytes, sha256=tar.sha256,
                table_sha256=artifacts.file_sha256(table), class_counts=counts,
            )
        )  # fmt: skip
    classes = [str(label) for label in range(NUM_CLASSES)]
    artifacts.Index(
        classes=classes, image_extension="jpg", num_channels=3, mean=[0.5] * 3,
        std=[0.25] * 3, metadata_columns=[], splits={"train": shards, "validation": [], "test": []},
        num_records=len(images), num_rejects=0, digest=artifacts.index_digest(classes, shards),
    ).write(folder / "index.json")  # fmt: skip


def _measure(name: str, folder: Path, arguments: argparse.Namespace) -> dict:
    peers = [loader for loader in LOADERS[name] if not loader.startswith("convoy")]
    missing = dict.fromkeys(peers, "no --peers-python")
    if arguments.peers_python:
        prepared = {peer: _run([arguments.peers_python, PEER_SCRIPT, "prepare", peer, folder]) for peer in peers}
        missing = {peer: answer["failed"] for peer, answer in prepared.items() if "failed" in answer}
    answers: dict[str, list[dict]] = {}
    for _ in range(arguments.repeats):
        for loader in (loader for loader in LOADERS[name] if loader not in missing):
            here = [sys.executable, __file__, "--measure", loader, folder]
            there = [arguments.peers_python, PEER_SCRIPT, "measure", loader, folder]
            answer = _run(here if loader.startswith("convoy") else there)
            if "failed" in answer:
                missing[loader] = answer["failed"]
            else:
                answers.setdefault(loader, []).append(answer)
    medians = {
        figure: {loader: statistics.median(each[figure] for each in given) for loader, given in answers.items()}
        for figure in ("images_per_second", "cpu_us_per_image")
    }
    rates = medians["images_per_second"]
    ours = rates[LOADERS[name][0]]
    return {
        **{figure: {loader: round(median) for loader, median in each.items()} for figure, each in medians.items()},
        "ratios": {loader: round(ours / rates[loader], 3) for loader in rates if loader in peers},
        "missing": missing,
    }


def _run(command: list) -> dict:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][-200:]}


def _measure_here(loader: str, folder: str) -> None:
    import loading as peer

    from pipeline.loading.augment import Augmentation
    from pipeline.loading.batches import training_batches
    from pipeline.loading.kept import open_decoded
    from pipeline.loading.order import order
    from pipeline.loading.read import SplitReader

    shards = "shards-long-side-256" if loader.endswith("long_side_256") else "shards"
    reader = SplitReader(Path(folder) / shards / "index.json", "train")
    os.environ["CONVOY_CACHE"] = str(Path(folder) / "cache")
    limit_bytes = DECODED_CACHE_BYTES if "decoded" in loader else 0
    augmentation = Augmentation((0.08, 1.0), (3 / 4, 4 / 3), False, False, 0.0)
    batch, side_px = peer.BATCH, peer.SIDE_PX
    if Path(folder).name == SMALL.replace(" ", "-"):
        augmentation = Augmentation((1.0, 1.0), (1.0, 1.0), True, False, 0.0, shift_fraction=peer.SHIFT_PX / 32)
        batch, side_px = peer.SMALL_BATCH, 32
    epochs = iter(range(1_000_000))

    def epoch():
        steps = order(
            reader.shard_sizes, seed=0, epoch=next(epochs), digest=reader.index.digest, global_batch_size=batch
        )
        made = training_batches(
            reader, steps, augmentation,
            input_px=side_px, rank=0, world_size=1, first_step=0, num_workers=peer.WORKERS, decoded=decoded,
        )  # fmt: skip
        return (len(batch.labels_B) for batch in made)

    with open_decoded(reader, limit_bytes, print) as decoded:
        print(json.dumps(peer.rate(epoch)))


if __name__ == "__main__":
    main()

"""Whether other readers find in our tars what the index says, unmodified: the same samples with the same labels.

Each reader runs in a process of its own, in the first Python that has it. Prints one JSON line: of each reader whether
it read the samples of each split with the right labels and with images of the right shapes, or why it did not.

    python benchmarks/readers.py --shards data/shards --python /path/to/python [/path/to/another]
    python benchmarks/readers.py --channels 5 --python ...
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PEER_SCRIPT = Path(__file__).resolve().parent / "peers" / "reading.py"
REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
READERS = ("webdataset", "huggingface", "timm", "ray_data", "dali")
NUM_DRAWN = 300


def main() -> None:
    arguments = _arguments()
    pythons = [sys.executable, *map(str, arguments.python)]
    with tempfile.TemporaryDirectory() as work:
        shards = (arguments.shards or _draw(Path(work), arguments.channels)).absolute()
        extension, found = _samples(shards)
        expected = {split: samples for split, samples in found.items() if samples}
        results = {reader: _check(reader, shards, extension, expected, pythons) for reader in arguments.readers}
    print(json.dumps({"benchmark": "readers", "samples": sum(map(len, expected.values())), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shards", type=Path, help="a shard set; without one images are drawn and sharded, pictures or --channels"
    )
    parser.add_argument("--channels", type=int, help="draw arrays of so many channels instead of pictures")
    parser.add_argument("--python", type=Path, nargs="*", default=[], help="Pythons that have the readers")
    parser.add_argument("--readers", nargs="*", default=READERS, choices=READERS)
    return parser.parse_args()


def _draw(work: Path, num_channels: int | None) -> Path:
    from sharding_run import shard_images

    if num_channels is None:
        from pipeline.sharding.demo import CLASSES, write_demo_set

        write_demo_set(work / "images", NUM_DRAWN // len(CLASSES), seed=0)
    else:
        _draw_arrays(work / "images", num_channels)
    shard_images(work / "images", work, None, 1)
    return work / "shards"


def _draw_arrays(folder: Path, num_channels: int) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    for number in range(NUM_DRAWN):
        path = folder / f"{number % 2}" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, random.integers(0, 65_536, (24, 32, num_channels), np.uint16))


def _samples(shards: Path) -> tuple[str, dict[str, list]]:
    """The extension of the images; of each split labels and shapes, in the order of the keys. Nothing of the readers is
    in it."""
    from pipeline.artifacts import Index
    from pipeline.imaging.decode import decode
    from pipeline.sample_table import read_sample_table

    index, found = Index.read(shards / "index.json", made_by="shard"), {}
    for split, of_split in index.splits.items():
        found[split] = []
        for shard in of_split:
            with (shards / f"{shard.name}.tar").open("rb") as tar:
                for row in read_sample_table(shards / "index.json", shard):
                    tar.seek(row["image_offset"])
                    shape = decode(tar.read(row["image_bytes"])).shape
                    found[split].append([int(row["label"]), list(shape)])
    return index.image_extension, found


def _check(reader: str, shards: Path, extension: str, expected: dict[str, list], pythons: list[str]) -> dict:
    outcome = {}
    for split, samples in expected.items():
        found = _read(reader, shards / split, extension, pythons)
        if isinstance(found, str):
            return {"failed": found}
        outcome[split] = (
            "equal" if found == samples else f"{len(found)} samples, {sum(map(_differ, found, samples))} differ"
        )
    return outcome


def _read(reader: str, folder: Path, extension: str, pythons: list[str]) -> list | str:
    """Labels and shapes, or the last line of what went wrong."""
    for python in pythons:
        command = [python, str(PEER_SCRIPT), reader, str(folder), extension]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        problem = (done.stderr.strip().splitlines() or ["no output"])[-1][-200:]
        if "ModuleNotFoundError" not in problem:
            return problem
    return problem


def _differ(sample: list, other: list) -> bool:
    return sample != other


if __name__ == "__main__":
    main()

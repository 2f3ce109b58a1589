"""Whether other readers find in our tars what the index says, unmodified: the same samples with the same labels.

Each reader runs in a process of its own, in the first Python that has it. Prints one JSON line: of each reader how many
samples of how many splits it read with the right labels, or why it did not.

    python benchmarks/readers.py --shards data/shards --python /path/to/python [/path/to/another]
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
        shards = (arguments.shards or _draw(Path(work))).absolute()
        expected = {split: labels for split, labels in _labels(shards).items() if labels}
        results = {reader: _check(reader, shards, expected, pythons) for reader in arguments.readers}
    print(json.dumps({"benchmark": "readers", "samples": sum(map(len, expected.values())), "results": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shards", type=Path, help="a shard set of JPEGs; without one the demo set is drawn and sharded"
    )
    parser.add_argument("--python", type=Path, nargs="*", default=[], help="Pythons that have the readers")
    parser.add_argument("--readers", nargs="*", default=READERS, choices=READERS)
    return parser.parse_args()


def _draw(work: Path) -> Path:
    from sharding_run import shard_images

    from pipeline.sharding.demo import CLASSES, write_demo_set

    write_demo_set(work / "images", NUM_DRAWN // len(CLASSES), seed=0)
    shard_images(work / "images", work, None, 1)
    return work / "shards"


def _labels(shards: Path) -> dict[str, list[int]]:
    """Of each split, in the order of the keys; written by us, so that nothing of the readers is in it."""
    from pipeline.artifacts import Index
    from pipeline.sample_table import read_sample_table

    index = Index.read(shards / "index.json", made_by="shard")
    return {
        split: [
            label for shard in of_split for label in read_sample_table(shards / "index.json", shard)["label"].tolist()
        ]
        for split, of_split in index.splits.items()
    }


def _check(reader: str, shards: Path, expected: dict[str, list[int]], pythons: list[str]) -> dict:
    outcome = {}
    for split, labels in expected.items():
        found = _read(reader, shards / split, pythons)
        if isinstance(found, str):
            return {"failed": found}
        outcome[split] = (
            "equal" if found == labels else f"{len(found)} samples, {sum(map(_differ, found, labels))} differ"
        )
    return outcome


def _read(reader: str, folder: Path, pythons: list[str]) -> list[int] | str:
    """The labels, or the last line of what went wrong."""
    for python in pythons:
        command = [python, str(PEER_SCRIPT), reader, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        problem = (done.stderr.strip().splitlines() or ["no output"])[-1][-200:]
        if "ModuleNotFoundError" not in problem:
            return problem
    return problem


def _differ(label: int, other: int) -> bool:
    return label != other


if __name__ == "__main__":
    main()

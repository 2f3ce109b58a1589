"""One foreign reader over the tars of one split, for `benchmarks/readers.py`; runs in any Python that has the reader.

Prints the labels in the order of the keys, or of the tars where the reader tells no keys, as a JSON line.

python reading.py READER SPLIT_FOLDER
"""

import json
import os
import sys
import tempfile
from pathlib import Path


def webdataset(tars: list[str]) -> list[int]:
    import webdataset as wds

    return [sample["cls"] for sample in wds.WebDataset(tars, shardshuffle=False).decode("rgb8")]


def huggingface(tars: list[str]) -> list[int]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=cache)
        samples = [(row["__key__"], row["cls"], row["jpg"].size) for row in rows]
    return [label for _, label, _ in sorted(samples)]


def timm(tars: list[str]) -> list[int]:
    from timm.data.readers.reader_wds import ReaderWds

    folder = Path(tars[0]).parent
    return [label for _, label in ReaderWds(str(folder.parent), split=folder.name)]


def ray_data(tars: list[str]) -> list[int]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        rows = ray.data.read_webdataset(tars).take_all()
    finally:
        ray.shutdown()
    assert all(row["jpg"].ndim == 3 for row in rows)
    return [int(row["cls"]) for row in sorted(rows, key=lambda row: row["__key__"])]


def dali(tars: list[str]) -> list[int]:
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    num_samples = sum(int(Path(tar).with_suffix(".idx").read_text().split()[1]) for tar in tars)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read():
        data, label = fn.readers.webdataset(
            paths=tars,
            index_paths=[str(Path(tar).with_suffix(".idx")) for tar in tars],
            ext=["jpg", "cls"],
            missing_component_behavior="error",
        )
        return fn.decoders.image(data), label

    pipeline = read()
    pipeline.build()
    labels = (pipeline.run()[1].as_array() for _ in range(num_samples))
    return [int(bytes(np.asarray(label).ravel())) for label in labels]


if __name__ == "__main__":
    reader, folder = sys.argv[1:]
    print(json.dumps(globals()[reader](sorted(map(str, Path(folder).glob("*.tar"))))))

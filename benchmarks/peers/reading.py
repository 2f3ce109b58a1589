"""One foreign reader over the tars of one split, for `benchmarks/readers.py`; runs in any Python that has the reader.

Prints the labels in the order of the keys, or of the tars where the reader tells no keys, and the shapes of the images,
as a JSON line. EXTENSION is that of the images' members, jpg or npy.

python reading.py READER SPLIT_FOLDER EXTENSION
"""

import json
import os
import sys
import tempfile
from pathlib import Path


def webdataset(tars: list[str], extension: str) -> list[tuple]:
    import webdataset as wds

    samples = wds.WebDataset(tars, shardshuffle=False).decode("rgb8")
    return [(sample["cls"], sample[extension].shape) for sample in samples]


def huggingface(tars: list[str], extension: str) -> list[tuple]:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import numpy as np
    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as cache:
        rows = load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=cache)
        samples = [(row["__key__"], row["cls"], np.asarray(row[extension]).shape) for row in rows]
    return [(label, shape) for _, label, shape in sorted(samples)]


def timm(tars: list[str], extension: str) -> list[tuple]:
    import numpy as np
    from timm.data.readers.reader_wds import ReaderWds

    folder = Path(tars[0]).parent
    reader = ReaderWds(str(folder.parent), split=folder.name, input_key=extension)
    return [(label, np.asarray(image).shape) for image, label in reader]


def ray_data(tars: list[str], extension: str) -> list[tuple]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        rows = ray.data.read_webdataset(tars).take_all()
    finally:
        ray.shutdown()
    return [(int(row["cls"]), row[extension].shape) for row in sorted(rows, key=lambda row: row["__key__"])]


def dali(tars: list[str], extension: str) -> list[tuple]:
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    num_samples = sum(int(Path(tar).with_suffix(".idx").read_text().split()[1]) for tar in tars)
    decode = fn.decoders.numpy if extension == "npy" else fn.decoders.image

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read():
        data, label = fn.readers.webdataset(
            paths=tars,
            index_paths=[str(Path(tar).with_suffix(".idx")) for tar in tars],
            ext=[extension, "cls"],
            missing_component_behavior="error",
        )
        return decode(data), label

    pipeline = read()
    pipeline.build()
    samples = ([np.asarray(each.as_array())[0] for each in pipeline.run()] for _ in range(num_samples))
    return [(int(bytes(label.ravel())), image.shape) for image, label in samples]


if __name__ == "__main__":
    reader, folder, extension = sys.argv[1:]
    print(json.dumps(globals()[reader](sorted(map(str, Path(folder).glob("*.tar"))), extension)))

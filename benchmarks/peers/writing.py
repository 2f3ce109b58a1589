"""FFCV's writer for `benchmarks/sharding.py`; runs in the peers' Python. Prints its seconds as a JSON line.

python writing.py WORK NUM_WORKERS
"""

import json
import sys
import time
from pathlib import Path

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image


class Images:
    def __init__(self, folder: Path):
        self.paths = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        path = self.paths[row]
        return Image.open(path).convert("RGB"), int(path.parent.name)


if __name__ == "__main__":
    work, num_workers = Path(sys.argv[1]), int(sys.argv[2])
    (work / "out").mkdir()
    start = time.perf_counter()
    image = RGBImageField(write_mode="jpg", max_resolution=256, jpeg_quality=90)
    writer = DatasetWriter(
        str(work / "out/images.beton"), {"image": image, "label": IntField()}, num_workers=num_workers
    )
    writer.from_indexed_dataset(Images(work / "images"), chunksize=100)
    print(json.dumps({"seconds": time.perf_counter() - start}))

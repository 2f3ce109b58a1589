"""One loader of another project over photographs that `prepare` wrote in its own format, and its rate.

Runs in an environment that has the peers, never in the project's own: `python loading.py prepare|measure NAME FOLDER`.
Every loader gives batches of 64 random-resized crops of 224 px, uint8 where it can, with two workers; those named small
batches of 512 whole images of 32 px, flipped and shifted.
"""

import io
import json
import os
import sys
import time
from pathlib import Path

import psutil

BATCH, SIDE_PX, WORKERS = 64, 224, 2
SMALL_BATCH, SHIFT_PX = 512, 4
LEAST_SECONDS = 2.0


def photos(folder: Path) -> list[Path]:
    return sorted((folder / "images").glob("*/*.jpg"))


def _torchvision_crop():
    from torchvision import transforms

    return transforms.Compose([transforms.RandomResizedCrop(SIDE_PX), transforms.PILToTensor()])


def _torch_batches(dataset, loader_class=None, **options):
    import torch

    loader_class = loader_class or torch.utils.data.DataLoader
    loader = loader_class(
        dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True, drop_last=True, **options
    )
    return lambda: (len(images) for images, _ in loader)


def imagefolder(folder: Path):
    from torchvision.datasets import ImageFolder

    return _torch_batches(ImageFolder(str(folder / "images"), _torchvision_crop()), shuffle=True)


def webdataset(folder: Path):
    import webdataset as wds

    crop = _torchvision_crop()
    shards = sorted(str(path) for path in (folder / "shards" / "train").glob("*.tar"))
    # Its epochs end where each worker's shards do; a worker needs a shard of its own.
    dataset = wds.WebDataset(shards, shardshuffle=100, seed=0, empty_check=False).shuffle(1000).decode("pil")
    dataset = dataset.to_tuple("jpg", "cls").map_tuple(lambda image: crop(image.convert("RGB")), lambda label: label)
    return _torch_batches(dataset)


def litdata(folder: Path):
    from litdata import StreamingDataLoader, StreamingDataset
    from PIL import Image

    crop = _torchvision_crop()

    class Photos(StreamingDataset):
        def __getitem__(self, at):
            sample = super().__getitem__(at)
            return crop(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]

    dataset = Photos(str(folder / "litdata"), shuffle=True, cache_dir=str(folder / "litdata-cache"))
    return _torch_batches(dataset, StreamingDataLoader)


def _litdata_sample(item):
    path, label = item
    return {"image": Path(path).read_bytes(), "label": label}


def mosaicml(folder: Path):
    from PIL import Image
    from streaming import StreamingDataset

    crop = _torchvision_crop()

    class Photos(StreamingDataset):
        def __getitem__(self, at):
            sample = super().__getitem__(at)
            return crop(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]

    return _torch_batches(Photos(local=str(folder / "mds"), shuffle=True, batch_size=BATCH))


def dali(folder: Path):
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def crops():
        data, labels = fn.readers.file(file_root=str(folder / "images"), random_shuffle=True, name="photos")
        images = fn.decoders.image_random_crop(data, device="cpu")
        return fn.resize(images, size=(SIDE_PX, SIDE_PX)), labels

    pipeline = crops()
    pipeline.build()
    num_batches = pipeline.epoch_size("photos") // BATCH
    return lambda: (len(pipeline.run()[0]) for _ in range(num_batches))


def _ffcv(folder: Path, beton: str):
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder

    return _ffcv_batches(folder / beton, BATCH, [RandomResizedCropRGBImageDecoder((SIDE_PX, SIDE_PX))])


def _ffcv_of_small(folder: Path, beton: str):
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate

    images = [SimpleRGBImageDecoder(), RandomHorizontalFlip(), RandomTranslate(padding=SHIFT_PX)]
    return _ffcv_batches(folder / beton, SMALL_BATCH, images)


def _ffcv_batches(beton: Path, batch: int, images: list):
    from ffcv.fields.decoders import IntDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    loader = Loader(
        str(beton),
        batch_size=batch,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        drop_last=True,
        os_cache=True,
        pipelines={
            "image": [*images, ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return lambda: (len(images) for images, _ in loader)


def ffcv(folder: Path):
    return _ffcv(folder, "jpg.beton")


def ffcv_long_side_256(folder: Path):
    return _ffcv(folder, "jpg-256.beton")


def ffcv_raw_long_side_256(folder: Path):
    return _ffcv(folder, "raw-256.beton")


def ffcv_small(folder: Path):
    return _ffcv_of_small(folder, "jpg-32.beton")


def ffcv_raw_small(folder: Path):
    return _ffcv_of_small(folder, "raw-32.beton")


class _Pairs:
    """What FFCV's writer takes: a sequence of pairs of an image and its label."""

    def __init__(self, paths: list[Path]):
        self._paths = paths
        self._classes = sorted({path.parent.name for path in paths})

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, at):
        from PIL import Image

        path = self._paths[at]
        return Image.open(path).convert("RGB"), self._classes.index(path.parent.name)


def _prepare_ffcv(folder: Path, beton: str, **field):
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(jpeg_quality=90, **field), "label": IntField()}
    DatasetWriter(str(folder / beton), fields, num_workers=WORKERS).from_indexed_dataset(_Pairs(photos(folder)))


def _prepare_litdata(folder: Path):
    from litdata import optimize

    items = [(str(path), int(path.parent.name)) for path in photos(folder)]
    optimize(_litdata_sample, items, str(folder / "litdata"), chunk_bytes="64MB", num_workers=WORKERS)


def _prepare_mosaicml(folder: Path):
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"image": "bytes", "label": "int"}) as writer:
        for path in photos(folder):
            writer.write({"image": path.read_bytes(), "label": int(path.parent.name)})


PREPARE = {
    "litdata": _prepare_litdata,
    "mosaicml": _prepare_mosaicml,
    "ffcv": lambda folder: _prepare_ffcv(folder, "jpg.beton", write_mode="jpg"),
    "ffcv_long_side_256": lambda folder: _prepare_ffcv(folder, "jpg-256.beton", write_mode="jpg", max_resolution=256),
    "ffcv_raw_long_side_256": lambda folder: _prepare_ffcv(
        folder, "raw-256.beton", write_mode="raw", max_resolution=256
    ),
    "ffcv_small": lambda folder: _prepare_ffcv(folder, "jpg-32.beton", write_mode="jpg"),
    "ffcv_raw_small": lambda folder: _prepare_ffcv(folder, "raw-32.beton", write_mode="raw"),
}
"""The others read the images or the tars as they are."""

MEASURE = {
    "imagefolder": imagefolder,
    "webdataset": webdataset,
    "litdata": litdata,
    "mosaicml": mosaicml,
    "dali": dali,
    "ffcv": ffcv,
    "ffcv_long_side_256": ffcv_long_side_256,
    "ffcv_raw_long_side_256": ffcv_raw_long_side_256,
    "ffcv_small": ffcv_small,
    "ffcv_raw_small": ffcv_raw_small,
}


def rate(epoch) -> dict[str, float]:
    """Over whole epochs, after one that warms up: images a second, and CPU time an image of the process and the
    workers it started, which says the same on a busy machine."""
    sum(epoch())
    num_images, started, cpu_started = 0, time.perf_counter(), _cpu_seconds()
    while (seconds := time.perf_counter() - started) < LEAST_SECONDS:
        num_images += sum(epoch())
    cpu_seconds = _cpu_seconds() - cpu_started
    return {"images_per_second": num_images / seconds, "cpu_us_per_image": 1e6 * cpu_seconds / num_images}


def _cpu_seconds() -> float:
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    verb, name, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if verb == "prepare":
        PREPARE.get(name, lambda _folder: None)(place)
        print(json.dumps({"prepared": name}))
    else:
        print(json.dumps(rate(MEASURE[name](place))), flush=True)
        os._exit(0)  # some peers' threads never end

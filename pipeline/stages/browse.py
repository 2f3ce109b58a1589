"""`convoy browse`: a contact sheet, HTML or PNG: some samples of each class, and what augmentation makes of them.

The pictures come out of the loader itself: these are the pixels that training sees in its first epochs.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline import params
from pipeline.artifacts import Index
from pipeline.errors import ArtifactError, ParamsError
from pipeline.stages import layout

MAX_CLASSES = 100
JPEG_QUALITY = 88
NO_CLASS = "(no class)"


@dataclass
class Sample:
    path: str
    views: list
    """Data URIs, or pixels."""


@dataclass
class ClassOnSheet:
    name: str
    num_samples: int
    samples: list[Sample]


def browse(split: str, num_per_class: int, num_epochs: int, output: Path = layout.CONTACT_SHEET) -> None:
    import contextlib

    from rich.console import Console

    from pipeline.loading.read import SplitReader
    from pipeline.stages.publish import publishing

    if output.suffix.lower() not in (".html", ".png"):
        raise ParamsError(
            f"--output={output} ends in neither .html nor .png, which say what a contact sheet is made as."
        )
    sections = params.read(layout.PARAMS, ["loading", "augment", "model", "training"])
    loading = sections.pop("loading")
    index = Index.read(layout.INDEX, made_by="shard")
    if not index.num_samples(split):
        raise ArtifactError(f"{layout.INDEX} has no {split} samples; name another split with --split.")
    is_png = output.suffix.lower() == ".png"
    with contextlib.closing(SplitReader(layout.INDEX, split, loading.cache_bytes)) as reader:
        classes = _classes(reader, num_per_class, num_epochs, _pixels if is_png else _uri, **sections)
    with publishing(output) as [path]:
        write = _write_png if is_png else _write_html
        classes = write(path, classes, split, index, num_epochs, sections["model"].input_px)
    num_shown, num_classes = sum(len(each.samples) for each in classes), min(len(classes), len(index.classes))
    Console(highlight=False, soft_wrap=True).print(
        f"[bold]{output}[/]: {num_shown} samples of {num_classes} of {len(index.classes)} classes"
    )


def _write_html(
    path: Path, classes: list[ClassOnSheet], split: str, index: Index, num_epochs: int, input_px: int
) -> list[ClassOnSheet]:
    """The classes that are on it."""
    import jinja2

    environment = jinja2.Environment(loader=jinja2.PackageLoader("pipeline", "stages"), autoescape=True)
    page = environment.get_template("browse.html.j2").render(
        split=split,
        num_samples=index.num_samples(split),
        num_classes=len(index.classes),
        views=num_epochs,
        input_px=input_px,
        classes=classes,
    )
    path.write_text(page, encoding="utf-8")
    return classes


def _write_png(
    path: Path, classes: list[ClassOnSheet], split: str, index: Index, num_epochs: int, input_px: int
) -> list[ClassOnSheet]:
    """The classes that there is room for."""
    from pipeline.stages.contact_sheet import DrawnClass, DrawnSample, draw_sheet

    heading = f"{split}: {index.num_samples(split):,} samples of {len(index.classes):,} classes"
    legend = "framed what evaluation sees" + (f", then training's epochs 0 to {num_epochs - 1}" if num_epochs else "")
    drawn = [
        DrawnClass(f"{each.name} ({each.num_samples:,})", [DrawnSample(*vars(one).values()) for one in each.samples])
        for each in classes
    ]
    sheet, num_classes = draw_sheet(heading, f"{legend}, at {input_px} x {input_px} pixels", drawn)
    sheet.save(path, "PNG")
    return classes[:num_classes]


def _classes(reader, num_per_class: int, num_epochs: int, view, *, augment, model, training) -> list[ClassOnSheet]:
    import numpy as np

    from pipeline.loading.augment import Augmentation
    from pipeline.loading.batches import training_batches
    from pipeline.loading.order import epoch_key

    _, rows = reader.locate(np.arange(reader.num_samples))
    members = _members(rows, reader.index.classes)
    chosen = [_spread(numbers, num_per_class) for numbers in members.values()]
    numbers = np.concatenate(chosen)
    paths = [_path(reader, number) for number in numbers.tolist()]
    views = [[view(image_HWC)] for image_HWC in _as_evaluated(reader, numbers, model.input_px)]
    for epoch in range(num_epochs):
        made = training_batches(
            reader,
            _OneStep(epoch_key(seed=training.seed, epoch=epoch, digest=reader.index.digest), numbers),
            Augmentation(**augment.of_one_image()),
            input_px=model.input_px,
            rank=0,
            world_size=1,
            first_step=0,
            num_workers=0,
        )
        for of_sample, image_HWC in zip(views, next(made).pictures(), strict=True):
            of_sample.append(view(image_HWC))
    samples = iter([Sample(path, of_sample) for path, of_sample in zip(paths, views, strict=True)])
    return [
        ClassOnSheet(name, len(of_class), [next(samples) for _ in shown])
        for (name, of_class), shown in zip(members.items(), chosen, strict=True)
    ]


def _members(rows, classes: list[str]) -> dict:
    """The sample numbers of each class, as far as classes are shown, and of a multi-label set those without one."""
    import numpy as np

    from pipeline.sample_table import is_multi_label, multi_hot

    shown = list(enumerate(classes[:MAX_CLASSES]))
    if not is_multi_label(rows):
        return {name: np.flatnonzero(rows["label"] == label) for label, name in shown}
    hot_NK = multi_hot(rows, len(classes))
    of_classes = {name: np.flatnonzero(hot_NK[:, label]) for label, name in shown}
    return {**of_classes, NO_CLASS: np.flatnonzero(~hot_NK.any(axis=1))}


@dataclass
class _OneStep:
    """An epoch's order as the loader asks for it, whose one step is the chosen samples."""

    key: int
    numbers: object
    num_steps: int = 1

    def rank_step(self, _step: int, _rank: int, _world_size: int) -> object:
        return self.numbers

    def rank_turns(self, _step: int, _rank: int, _world_size: int) -> object:
        return self.numbers * 0


def _spread(numbers, count: int):
    """Up to `count` of the numbers, from all over them."""
    import numpy as np

    return numbers[np.unique(np.linspace(0, len(numbers) - 1, min(count, len(numbers))).astype(int))]


def _as_evaluated(reader, numbers, side_px: int) -> list:
    from pipeline.imaging.decode import decode
    from pipeline.imaging.resizing import evaluation_view

    shards, rows = reader.locate(numbers)
    images = (reader.image_bytes(int(shard), row) for shard, row in zip(shards, rows, strict=True))
    return [evaluation_view(decode(data), side_px) for data in images]


def _path(reader, number: int) -> str:
    """The sample's source, as its JSON member says."""
    import numpy as np

    shards, rows = reader.locate(np.array([number]))
    with reader.opened(reader.shards[int(shards[0])]) as (_, tar_path), tar_path.open("rb") as tar:
        tar.seek(int(rows[0]["json_offset"]))
        return json.loads(tar.read(int(rows[0]["json_bytes"])))["path"]


def _pixels(image_HWC):
    import numpy as np

    from pipeline.imaging.channels import as_rgb

    return as_rgb(np.ascontiguousarray(image_HWC)).copy()


def _uri(image_HWC) -> str:
    import numpy as np
    import simplejpeg

    from pipeline.imaging.channels import as_rgb

    data = simplejpeg.encode_jpeg(as_rgb(np.ascontiguousarray(image_HWC)), quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()

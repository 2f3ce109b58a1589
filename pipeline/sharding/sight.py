"""What a machine must see, and make of it, to help with sharding: one source, one work folder, the same bytes.

A source that one machine does not see would come out as rejects, and another release of a decoder as other bytes. So
some records' digests are taken where the work is led, and compared on every other machine before it does anything.
"""

import hashlib
import secrets
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline import stores
from pipeline.errors import ImageError, SourceError
from pipeline.sharding.encode import encode
from pipeline.sharding.manifest import Manifest
from pipeline.sharding.reading import absolute_root, read_image
from pipeline.sharding.resume import unfinished

NUM_IMAGES = 4
"""Looked at, from all over the manifest."""

_TOKEN = "sight"


class SeenImage(NamedTuple):
    path: str
    sha256: str
    """Of its bytes."""
    made: str
    """A digest of what is made of it."""


class Sight(NamedTuple):
    """Of the machine that leads."""

    work: Path
    token: str
    """What a file in the work folder says."""
    image_root: str
    images: list[SeenImage]
    short_side_px: int | None
    jpeg_quality: int
    location: str | None
    """Address that shards go to."""


def take_sight(
    work: Path, manifest: Manifest, image_root: str, short_side_px: int | None, jpeg_quality: int, location: str | None
) -> Sight:
    """Of images that cannot be read here nothing is asked."""
    token, root, images = secrets.token_hex(16), absolute_root(image_root), []
    (work / _TOKEN).write_text(token)
    stride = max(1, -(-manifest.num_rows // NUM_IMAGES))
    for path in islice(manifest.values("path"), 0, None, stride):
        try:
            images.append(_see(root, path, short_side_px, jpeg_quality))
        except ImageError:
            continue
    return Sight(work.absolute(), token, root, images, short_side_px, jpeg_quality, location)


def check_sight(sight: Sight) -> None:
    """Raises SourceError, or StorageError, with what this machine sees or makes otherwise."""
    _check_work(sight)
    for expected in sight.images:
        try:
            found = _see(sight.image_root, expected.path, sight.short_side_px, sight.jpeg_quality)
        except ImageError as exc:
            raise SourceError(
                f"{_named(sight, expected)} cannot be read there ({exc}); data.source must be a folder that every node "
                "sees under this path, or an address"
            ) from exc
        if found.sha256 != expected.sha256:
            raise SourceError(f"{_named(sight, expected)} is another image there; data.source must be the same folder")
        if found.made != expected.made:
            raise SourceError(
                f"{_named(sight, expected)} is encoded to other bytes there; install the same versions of the packages "
                "(requirements.lock)"
            )
    if sight.location is not None:
        try:
            stores.measure(stores.join(sight.location, f"{sight.token}.none"))
        except FileNotFoundError:
            return


def _check_work(sight: Sight) -> None:
    path = sight.work / _TOKEN
    way_out = "the pipeline must run in a folder that every node sees under this path, such as cluster.storage"
    try:
        text = path.read_text()
        unfinished(path).write_text(text)
        unfinished(path).unlink()
    except OSError as exc:
        raise SourceError(f"{sight.work} cannot be used there ({exc.strerror}); {way_out}") from exc
    if text != sight.token:
        raise SourceError(f"{sight.work} is another folder there; {way_out}")


def _see(root: str, path: str, short_side_px: int | None, jpeg_quality: int) -> SeenImage:
    data = read_image(root, path)
    encoded = encode(data, short_side_px, jpeg_quality)
    made = hashlib.sha256(encoded.data + repr(encoded[1:-1]).encode() + encoded.likeness.tobytes())
    return SeenImage(path, hashlib.sha256(data).hexdigest(), made.hexdigest())


def _named(sight: Sight, image: SeenImage) -> str:
    return stores.without_secrets(stores.join(sight.image_root, image.path))

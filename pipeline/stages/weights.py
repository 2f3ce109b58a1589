"""Where training starts: what model.weights names, as a local, verified file that every rank finds."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.errors import TrackingError
from pipeline.stages import layout
from pipeline.stages.home import located
from pipeline.stages.publish import turn

if TYPE_CHECKING:
    from pipeline.modeling.weights import Start

ADDRESSES = "addresses.json"
"""Which weights an address meant when it was last asked."""

NO_SUCH_MODEL = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What a store says that was reached and knows better."""


def find(model: params.Model, num_channels: int, tracking: params.Tracking, root: Path) -> "Start | None":
    """None for fresh weights. What is fetched stays under `root`, named by its sha256, for a day without a network.

    Raises ModelError for weights that are not there or do not fit, TrackingError for a store that cannot be asked and
    never was.
    """
    import torch

    from pipeline.modeling import backbone, weights
    from pipeline.registry.fetch import SCHEMES

    if model.weights == "none":
        return None
    folder = root / layout.WEIGHTS
    if model.weights == "pretrained":
        text = str(backbone.fetch_pretrained(model.backbone, model.input_px, model.options, folder))
    elif model.weights.startswith(SCHEMES):
        text = str(folder / _fetch(model.weights, tracking, root, folder))
    else:
        text = located(model.weights)
    start = weights.look_at(text, model.backbone)
    with torch.device("meta"):
        network = backbone.build(
            model.backbone,
            num_classes=1,
            input_px=model.input_px,
            num_channels=num_channels,
            options=model.options,
        )
    weights.check(network, start)
    return start


def _fetch(address: str, tracking: params.Tracking, root: Path, folder: Path) -> str:
    """The sha256 of what lies at the address; that of the last time when the store is away."""
    from pipeline.registry import fetch
    from pipeline.tracking import address as store_address
    from pipeline.tracking import store

    uri = store_address.resolve(tracking.uri, root)
    key = f"{store_address.strip_credentials(uri)} {address}"
    path = folder / ADDRESSES
    known = _read(path)
    try:
        store.connect(uri)
        with store.translating(uri):
            sha256 = fetch.fetch(uri, address, folder)
    except TrackingError as exc:
        is_gone = getattr(exc.__cause__, "error_code", "") in NO_SUCH_MODEL
        if is_gone or key not in known or not (folder / known[key]).exists():
            raise
        print(f"{exc} Going on with what {address} was last time: {known[key][:12]}.", file=sys.stderr)
        return known[key]
    with turn(path.with_name(f".{ADDRESSES}.lock"), lambda text: None):  # a sweep's trials all come here
        partial = path.with_name(f".{ADDRESSES}.partial")
        partial.write_text(json.dumps(_read(path) | {key: sha256}, indent=2), encoding="utf-8")
        partial.replace(path)
    return sha256


def _read(path: Path) -> dict[str, str]:
    """What was noted; nothing where that cannot be read: the store is asked again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}

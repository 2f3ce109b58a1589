"""Where training starts: what model.weights names, as a local, verified file that every rank finds."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.errors import ConvoyError, ModelError, TrackingError
from pipeline.stages import layout
from pipeline.stages.home import located
from pipeline.stages.publish import turn

if TYPE_CHECKING:
    from pipeline.modeling.weights import Start

ADDRESSES = "addresses.json"
"""Which weights an address, or `pretrained` for a backbone, meant when it was last asked."""

NO_SUCH_MODEL = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What a store says that was reached and knows better."""


def find(model: params.Model, num_channels: int, tracking: params.Tracking, root: Path) -> "Start | None":
    """None for fresh weights. What is fetched stays under `root`, named by its sha256, for a day without a network.

    Raises ModelError for weights that are not there or do not fit, or that timm cannot fetch and never did,
    TrackingError for a store that cannot be asked and never was.
    """
    import torch

    from pipeline.modeling import backbone, weights
    from pipeline.registry.fetch import SCHEMES

    if model.weights == "none":
        return None
    folder = root / layout.WEIGHTS
    if model.weights == "pretrained":
        text = str(folder / _fetch_pretrained(model, folder))
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


def _fetch_pretrained(model: params.Model, folder: Path) -> str:
    """The name in `folder` of the file that timm's weights became; that of the last time without a network."""
    from pipeline.modeling import backbone

    asked = (model.backbone, model.input_px, model.options)
    key = f"pretrained {backbone.pretrained_name(*asked)}"
    return _remembered(key, "model.weights=pretrained", folder, lambda: backbone.fetch_pretrained(*asked, folder).name)


def _fetch(address: str, tracking: params.Tracking, root: Path, folder: Path) -> str:
    """The sha256 of what lies at the address, its name in `folder`; that of the last time when the store is away."""
    from pipeline.registry import fetch
    from pipeline.tracking import address as store_address
    from pipeline.tracking import store

    uri = store_address.resolve(tracking.uri, root)

    def fetched() -> str:
        store.connect(uri)
        with store.translating(uri):
            return fetch.fetch(uri, address, folder)

    return _remembered(f"{store_address.strip_credentials(uri)} {address}", address, folder, fetched)


def _remembered(key: str, what: str, folder: Path, fetch: Callable[[], str]) -> str:
    """The name in `folder` of what `fetch` fetches, noted under `key`; that of the last time, which is said of `what`,
    when it cannot be asked for."""
    path = folder / ADDRESSES
    known = _read(path)
    try:
        name = fetch()
    except ConvoyError as exc:
        if not _is_away(exc) or key not in known or not (folder / known[key]).exists():
            raise
        print(f"{exc} Going on with what {what} was last time: {known[key][:12]}.", file=sys.stderr)
        return known[key]
    with turn(path.with_name(f".{ADDRESSES}.lock"), lambda text: None):  # a sweep's trials all come here
        partial = path.with_name(f".{ADDRESSES}.partial")
        partial.write_text(json.dumps(_read(path) | {key: name}, indent=2), encoding="utf-8")
        partial.replace(path)
    return name


def _is_away(exc: ConvoyError) -> bool:
    """Whether who was asked, MLflow's store or timm's, could not answer; not that there is no such model."""
    if isinstance(exc, TrackingError):
        return getattr(exc.__cause__, "error_code", "") not in NO_SUCH_MODEL
    return isinstance(exc, ModelError) and isinstance(exc.__cause__, OSError)


def _read(path: Path) -> dict[str, str]:
    """What was noted; nothing where that cannot be read: the store is asked again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}

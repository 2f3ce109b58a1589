"""The register stage: data/model becomes a version in MLflow's registry, the gate says whether it is the champion."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import artifacts, params
from pipeline.errors import ArtifactError
from pipeline.metrics import Metrics, MultiLabelMetrics, read_metrics
from pipeline.stages import layout
from pipeline.stages.home import home
from pipeline.stages.origin import without_credentials
from pipeline.stages.publish import publishing, turn

if TYPE_CHECKING:
    from pipeline.registry import gate


def register(registry: params.Registry, tracking: params.Tracking) -> None:
    """Leaves data/registration.json. The same weights again give the same version.

    Raises ArtifactError when model, report, run and index are not of one piece, TrackingError for the store.
    """
    from rich.console import Console

    from pipeline.registry import export
    from pipeline.registry.register import check_name
    from pipeline.registry.register import register as register_version
    from pipeline.tracking import address, store

    check_name(registry.model_name)
    run = artifacts.Run.read(layout.RUN, made_by="train")
    metrics = read_metrics(layout.METRICS)
    threshold = _threshold(registry, metrics)
    index = artifacts.Index.read(layout.INDEX, made_by="shard")
    _check_one_piece(run, metrics, index, export.verify(layout.MODEL).weights_sha256)
    # Without any word of the user's, the store of the training run: it may lie in cluster.storage.
    wanted = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or run.tracking_uri
    uri = address.resolve(wanted, home())
    console = Console(soft_wrap=True)
    # Two registrations at once would both see no version of these weights, or the same champion.
    turns = turn(_turns(uri), lambda text: console.print(text, highlight=False, markup=False))
    with publishing(layout.REGISTRATION) as (target,), turns, tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / layout.PARAMS.name
        shown.write_bytes(without_credentials(layout.PARAMS.read_bytes()))
        client = store.connect(uri)
        with store.translating(uri):
            registration = register_version(
                client=client,
                uri=uri,
                experiment_id=store.find_or_create_experiment(client, uri, tracking.experiment),
                folder=layout.MODEL,
                model_name=registry.model_name,
                threshold=threshold,
                run=run,
                metrics=metrics,
                run_files=[layout.REPORT, layout.INDEX, shown],
                predictions=layout.PREDICTIONS if isinstance(metrics, MultiLabelMetrics) else None,
            )
        public = {"tracking_uri": address.strip_credentials(uri)}
        registration.model_copy(update=public).write(target)
    champion = registration.champion_version
    other = "" if champion == registration.version else f"; champion: version {champion or 'none'}"
    console.print(
        f"{registration.model_name} version {registration.version} is {registration.alias} "
        f"(test {threshold.figure} {metrics.score:.4f}{other}).",
        highlight=False,
    )
    console.print(" ".join(registration.reasons), highlight=False, markup=False)


def _threshold(registry: params.Registry, metrics: Metrics | MultiLabelMetrics) -> "gate.Threshold":
    from pipeline.registry.gate import Threshold

    if isinstance(metrics, MultiLabelMetrics):
        return Threshold("mAP", "registry.min_mean_ap", registry.min_mean_ap)
    return Threshold("top-1", "registry.min_top1", registry.min_top1)


def _turns(uri: str) -> Path:
    """The file whose lock orders registrations: beside a sqlite store; for a server, this machine's own."""
    from pipeline.tracking import address

    file = address.sqlite_file(uri)
    if file is not None:
        return file.with_name(f"{file.name}.register.lock")
    digest = hashlib.sha256(address.strip_credentials(uri).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"convoy-{os.getuid()}-register-{digest}.lock"


def _check_one_piece(
    run: artifacts.Run,
    metrics: Metrics | MultiLabelMetrics,
    index: artifacts.Index,
    weights_sha256: str,
) -> None:
    if metrics.weights_sha256 != weights_sha256:
        raise ArtifactError(
            f"{layout.METRICS} was measured on other weights ({metrics.weights_sha256[:12]}) than {layout.MODEL} holds "
            f"({weights_sha256[:12]}); run `convoy evaluate` again (or `dvc repro`)."
        )
    for path, digest in ((layout.RUN, run.index_digest), (layout.METRICS, metrics.index_digest)):
        if digest != index.digest:
            raise ArtifactError(
                f"{path} belongs to another data set (index {digest[:12]}) than {layout.INDEX} "
                f"({index.digest[:12]}); run `dvc repro`."
            )

"""Who does a stage's work on images: processes of this machine, or tasks on a Ray cluster."""

import sys
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import params

if TYPE_CHECKING:
    from pipeline.sharding.manifest import Manifest
    from pipeline.sharding.workers import Workers


def get_ready(shards: params.Shards, cluster: params.Cluster) -> None:
    """What takes a moment and can be begun before `open_workers`."""
    from pipeline.launch.cluster import to_join
    from pipeline.sharding.workers import LocalWorkers, start_server

    if to_join(cluster.address) is None and LocalWorkers(shards.num_workers).num_workers > 1:
        start_server()


def open_workers(
    shards: params.Shards, cluster: params.Cluster, work: Path, manifest: "Manifest", image_root: str
) -> AbstractContextManager["Workers"]:
    """For as long as its `with` lasts. A cluster's nodes are checked first: see `sharding.sight`."""
    from pipeline.launch.cluster import to_join

    address = to_join(cluster.address)
    if address is None:
        from pipeline.sharding.workers import LocalWorkers

        return LocalWorkers(shards.num_workers)
    from pipeline.launch.tasks import ClusterWorkers
    from pipeline.sharding.sight import check_sight, take_sight

    sight = take_sight(work, manifest, image_root, shards.short_side_px, shards.jpeg_quality, shards.destination)
    return ClusterWorkers(
        address,
        shards.num_workers,
        partial(check_sight, sight),
        max_failures=cluster.max_failures,
        wait_seconds=cluster.wait_seconds,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )

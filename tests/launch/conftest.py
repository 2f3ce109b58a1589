"""One Ray cluster for all tests of this folder; each launch joins it as a stage would join one by address."""

import os

import pytest

from pipeline.launch import cluster


@pytest.fixture(scope="package")
def address(tmp_path_factory):
    """A head of two cores that ends with the last of them."""
    os.environ.update(cluster.ENVIRONMENT)
    import ray

    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
                       object_store_memory=100 * 1024**2)  # fmt: skip
    ray_address = context.address_info["gcs_address"]
    node = ray._private.worker._global_node
    ray._private.worker._global_node = None  # so that a launch's own shutdown leaves the head alone
    ray.shutdown()
    yield ray_address
    node.kill_all_processes(check_alive=False, allow_graceful=True)

"""Ranks as Ray Train workers: starts or joins a cluster, places the ranks, and starts them again after a loss.

Restarts are decided here and not by Ray Train, which retries a user's bug as patiently as a lost node. Where a rank
goes on from is the body's own business.
"""

import concurrent.futures
import contextlib
import logging
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.errors import ClusterError, ConvoyError, PeerLostError, TrainingError
from pipeline.launch.body import Body

_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else workers of a driver under `uv run` start through uv
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else workers print everything twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

_OBJECT_STORE_BYTES = 100 * 1024**2
"""Nothing of ours travels through the object store; the default takes a third of the memory."""

_KNOCK_SECONDS = 5.0


def launch(
    body: Body,
    *,
    address: str | None,
    num_workers: int,
    max_failures: int,
    hang_seconds: float,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Runs `num_workers` ranks to their end; `folder` takes Ray Train's own files.

    A rank that was lost, or that said nothing for `hang_seconds`, costs one of `max_failures` and starts the world
    again. Raises the rank's own ConvoyError,
    TrainingError with the traceback of any other exception, and ClusterError when ranks cannot be placed or are
    lost too often.
    """
    for failures in range(max_failures + 1):
        # A connection of its own for each start: what the last world held, even one whose controller died, goes with
        # the connection, so that the next finds every core free.
        with _cluster(address) as resources:
            lost = _run_once(
                body,
                num_workers,
                cpus=_cpus_per_worker(resources, num_workers),
                use_gpu=resources.get("GPU", 0.0) >= num_workers,
                hang_seconds=hang_seconds,
                folder=folder,
            )
        if lost is None:
            return
        left = max_failures - failures
        say(f"{lost}; " + (f"going on from the newest checkpoint, {left} restarts left" if left else "giving up"))
    raise ClusterError(
        f"A rank was lost {max_failures + 1} times, the last time so: {lost}. Nothing is gone: run the same command to "
        "go on from the newest checkpoint, or raise cluster.max_failures."
    )


def inside_job() -> bool:
    """Whether this process belongs to a Ray job, whose cluster is then the one meant."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Mapping[str, float]]:
    """Ray, started here or joined, and its resources; what was started here ends here."""
    os.environ.update(_ENVIRONMENT)
    import ray

    joined = address or (os.environ.get("RAY_ADDRESS") if inside_job() else None)
    if joined:
        _knock(joined)
    try:
        if joined:
            ray.init(address=joined, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",  # said aloud, because a stale file of a dead cluster would be followed otherwise
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                num_cpus=len(os.sched_getaffinity(0)),
            )
    except (ConnectionError, TimeoutError, ValueError, RuntimeError, ray.exceptions.RayError) as exc:
        raise ClusterError(
            f"Ray does not start on this machine ({exc}); set cluster.num_workers: 0 to train without it."
            if joined is None
            else f"The Ray cluster at {joined} answers but cannot be joined ({exc}); is this machine one of its nodes, "
            "with the same versions of Ray and Python?"
        ) from exc
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises ClusterError when nothing listens; Ray itself would ask for five minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as exc:
        raise ClusterError(
            f"cluster.address={address} cannot be reached ({exc}); it is the host:port that `ray start --head` prints. "
            "Start it, or set cluster.address: null to use this machine."
        ) from exc


def _cpus_per_worker(resources: Mapping[str, float], num_workers: int) -> int:
    cpus = int(resources.get("CPU", 0))
    if cpus < num_workers:
        raise ClusterError(
            f"cluster.num_workers={num_workers} ranks need a core each and the cluster has {cpus}; "
            f"use {max(cpus, 1)} or less, or add nodes."
        )
    return cpus // num_workers


def _run_once(body: Body, num_workers: int, cpus: int, use_gpu: bool, hang_seconds: float, folder: Path) -> str | None:
    """None when all ranks finished; what was lost when the world may be started again."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

    folder.mkdir(parents=True, exist_ok=True)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(hang_seconds)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"body": body, "num_threads": cpus},
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=use_gpu, resources_per_worker={"CPU": cpus, "GPU": int(use_gpu)}
        ),
        torch_config=TorchConfig(timeout_s=math.ceil(hang_seconds)),
        run_config=RunConfig(
            # A name of its own for each start: Ray Train would resume whatever lies under an old one.
            name=f"start-{len(list(folder.iterdir())) + 1:04d}",
            storage_path=str(folder.absolute()),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        _in_a_thread(trainer.fit)
    except WorkerGroupError as exc:
        return _explain(exc.worker_failures, str(exc), exc, hang_seconds)
    except TrainingFailedError as exc:
        return f"Ray Train stopped ({_first_lines(exc)})"
    return None


def _in_a_thread(call: Callable[[], object]) -> None:
    """Waits for a call in a thread of its own: in the main one, Ray Train takes Ctrl-C for itself and the run for
    aborted, where the caller may want a checkpoint first. The thread is no obstacle to the process's end."""
    outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            outcome.set_exception(exc)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    outcome.result()


def _worker(config: dict) -> None:
    """The body inside a Ray Train worker. The world of one trains without a process group of its own."""
    import ray.train
    import ray.train.torch
    import torch

    torch.set_num_threads(config["num_threads"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    config["body"](context.get_world_rank(), context.get_world_size(), str(device))


def _explain(failures: Mapping[int, BaseException], traceback: str, cause: BaseException, hang_seconds: float) -> str:
    """What was lost, when a restart may help. Raises what a restart would meet again.

    When a rank dies or fails, the others lose their peer; so a loss counts before a failure, and a failure before
    the PeerLostErrors that came of it.
    """
    import ray.exceptions
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    failures = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in sorted(failures.items())}
    for rank, failure in failures.items():
        if isinstance(failure, WorkerHealthCheckTimeoutError):
            return f"rank {rank} said nothing for {hang_seconds:.0f} s"
        if isinstance(failure, ray.exceptions.RayError):
            return f"rank {rank} was lost ({_first_lines(failure)})"
    if any(not isinstance(failure, PeerLostError) for failure in failures.values()):
        for failure in failures.values():
            if isinstance(failure, ConvoyError) and not isinstance(failure, PeerLostError):
                raise failure
        raise TrainingError(f"The training code failed; a restart would meet the same. {traceback}") from cause
    return str(failures[min(failures)])


def _first_lines(failure: BaseException) -> str:
    """The first two lines of what Ray says, which goes on for a page."""
    return " ".join(line.strip() for line in str(failure).strip().splitlines()[:2])

"""Two networks on this machine with a wire between them, and a Ray cluster whose nodes lie on both sides of it.

The driver and the head lie on the near side, with a node of one core; the far side has another such node. Whoever sets
the device `uplink` down, on either side, cuts the wire. Needs the right to make network namespaces.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

DEVICE = "uplink"
NEAR, FAR = "10.77.0.1", "10.77.0.2"
PORT = 6379
"""In a network of the test's own: nobody else is there."""

_SYSTEM = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A lost node is noticed in seconds instead of half a minute."""


class Cluster:
    """Ray with one node of one core on each side; `address` is the head's."""

    address = f"{NEAR}:{PORT}"

    def __init__(self, near: str, far: str, folder: Path, environment: dict[str, str]):
        self.network = near
        """That of the driver: `enter` takes it."""
        self._networks, self._folder = {NEAR: near, FAR: far}, folder
        self._environment = environment | {"GLOO_SOCKET_IFNAME": DEVICE, "HOME": str(folder)}
        self._processes: list[subprocess.Popen] = []
        self._start(NEAR, "--head", "--port", str(PORT), "--num-cpus", "0", "--system-config", json.dumps(_SYSTEM))
        self.add(NEAR)
        self.add(FAR)

    def add(self, side: str) -> None:
        """A node of one core."""
        self._start(side, "--address", self.address, "--num-cpus", "1")

    def is_whole(self) -> bool:
        """Whether the wire carries again what is sent on it."""
        asked = ["ip", "-json", "-n", self.network, "link", "show", DEVICE]
        (device,) = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
        return device["operstate"] == "UP"

    def end(self) -> None:
        for process in self._processes:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.communicate()

    def _start(self, side: str, *options: str) -> None:
        command = ["ip", "netns", "exec", self._networks[side], str(Path(sys.executable).with_name("ray")), "start"]
        common = ["--block", "--node-ip-address", side, "--object-store-memory", str(80 * 1024**2)]
        common += ["--include-dashboard", "false"] if "--head" in options else []
        temporary = ["--temp-dir", str(self._folder)] if "--head" in options else []
        process = subprocess.Popen(
            [*command, *options, *common, *temporary],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        said = []
        for line in process.stdout:
            said.append(line)
            if "will now block" in line:
                return
        raise AssertionError("".join(said))


@contextmanager
def cluster(environment: dict[str, str]) -> Iterator[Cluster]:
    """Ends with the block, networks and all; `environment` is that of the nodes and their workers."""
    near, far = (f"convoy-{os.getpid()}-{side}" for side in ("near", "far"))
    made = subprocess.run(["ip", "netns", "add", near], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a network of one's own is not allowed here: {made.stderr.strip()}")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for the sockets in it
    started = None
    try:
        _ip("netns", "add", far)
        _ip("link", "add", DEVICE, "netns", near, "type", "veth", "peer", "name", DEVICE, "netns", far)
        for network, address in ((near, NEAR), (far, FAR)):
            _ip("-n", network, "address", "add", f"{address}/24", "dev", DEVICE)
            _ip("-n", network, "link", "set", "lo", "up")
            _ip("-n", network, "link", "set", DEVICE, "up")
        started = Cluster(near, far, folder, environment)
        yield started
    finally:
        if started is not None:
            started.end()
        for network in (near, far):
            subprocess.run(["ip", "netns", "delete", network], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def enter(network: str) -> None:
    """This process and those that it starts are in that network from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{network}") as file:
        if libc.setns(file.fileno(), 0x40000000):  # CLONE_NEWNET of sched.h
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def cut(seconds: float | None) -> None:
    """Cuts the wire from a process on either side, for so long, or for good."""
    _ip("link", "set", DEVICE, "down")
    if seconds is not None:
        mend = f"sleep {seconds}; ip link set {DEVICE} up"
        subprocess.Popen(["sh", "-c", mend], start_new_session=True)  # outlives a rank that ends meanwhile


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)

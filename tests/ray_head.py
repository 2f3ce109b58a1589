"""A real Ray head on this machine, on ports of its own, started as the README has it."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import projects
import psutil


def free_ports(num_ports: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_ports)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def started(command: str, environment: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """The dashboard's address of a head that ends with the block, and Ray's folder; `command` takes `ray start`'s
    options."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for the sockets in it
    port, dashboard, client, agent = free_ports(4)
    options = f" --block --port {port} --dashboard-port {dashboard} --ray-client-server-port {client}"
    options += f" --dashboard-agent-listen-port {agent} --temp-dir {folder} --object-store-memory 100000000"
    process = subprocess.Popen(
        (command + options).split(),
        cwd=projects.REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "will now block" in line:
                break
        assert process.poll() is None, "".join(said)
        yield f"http://127.0.0.1:{dashboard}", folder
    finally:
        for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
            each.kill()  # asked kindly, `ray start --block` takes half a minute
        process.communicate()
        shutil.rmtree(folder)

"""Whether a head still answers: real sockets, no Ray."""

import socket
import threading

import pytest

from pipeline.errors import ClusterError
from pipeline.launch.head import Head

WAY_ON = r"at 127\.0\.0\.1:{} does not answer any more\. Nothing is gone: once there is a head again, run the same"


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


def test_a_head_that_falls_silent_is_lost_once_patience_ends(listening):
    server, port = listening
    with Head(f"127.0.0.1:{port}", patience_seconds=2.0) as head:
        head._thread.join(1.5)  # one knock and more, answered
        head.check()
        server.close()
        head._thread.join(30.0)
        assert not head._thread.is_alive()
        with pytest.raises(ClusterError, match=WAY_ON.format(port)):
            head.check()


def test_a_head_may_be_silent_for_as_long_as_patience_lasts(listening):
    server, port = listening
    with Head(f"ray://127.0.0.1:{port}", patience_seconds=60.0) as head:
        server.close()
        head._thread.join(2.5)
        head.check()
        assert not head._is_lost


def test_an_answer_is_awaited_for_as_long_as_patience_lasts(listening):
    server, port = listening
    with Head(f"127.0.0.1:{port}", patience_seconds=60.0) as head:
        head.await_answer()
        server.close()
        again = threading.Timer(0.5, lambda: servers.append(socket.create_server(("127.0.0.1", port))))
        servers = []
        again.start()
        head.await_answer()
        again.join()
        servers[0].close()
    with (
        Head(f"127.0.0.1:{port}", patience_seconds=0.5) as head,
        pytest.raises(ClusterError, match=WAY_ON.format(port)),
    ):
        head.await_answer()


def test_a_call_is_waited_for_unless_the_head_is_lost(listening):
    server, port = listening
    never = threading.Event()
    with Head(f"127.0.0.1:{port}", patience_seconds=1.0) as head:
        assert head.watched(lambda: threading.current_thread().name) == "convoy-ray"
        with pytest.raises(KeyError, match="its own"):
            head.watched(lambda: {}["its own"])
        server.close()
        with pytest.raises(ClusterError, match=WAY_ON.format(port)):
            head.watched(never.wait)
    never.set()


def test_who_insists_is_told_at_once(listening):
    server, port = listening
    with Head(f"127.0.0.1:{port}", patience_seconds=60.0) as head:
        head.insist()
        server.close()
        with pytest.raises(ClusterError, match=WAY_ON.format(port)):
            head.insist()
        assert not head.answers()

"""A real MLflow server that a test can kill and start again, and a slow way to it."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

PATIENCE_SECONDS = 90.0


def wait_until(condition, what):
    """Polls what has no event to wait on: another process."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} took over {PATIENCE_SECONDS} s"
        time.sleep(0.05)


class Server:
    """`mlflow server` on a port of its own that can be killed and started again."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process = None

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_until(self._answers, "the start of the server")

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self):
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
            return answer.status == 200
        return False


@contextlib.contextmanager
def slow_way_to(uri: str, seconds: float) -> Iterator[str]:
    """The address of a proxy that passes every request on after so long."""
    ended = threading.Event()

    class Passing(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            ended.wait(seconds)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            asked = urllib.request.Request(uri + self.path, content or None, headers, method=self.command)
            try:
                answer = urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS)
            except urllib.error.HTTPError as refusal:
                answer = refusal
            with answer:
                body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Passing) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}"
        finally:
            ended.set()
            proxy.shutdown()
            serving.join()

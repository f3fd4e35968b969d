"""A visdom server on loopback, for the tests: started by the package's own command, asked by visdom's API."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib import request

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server, that can be killed, stopped, and started again on the same port."""

    def __init__(self, folder, port=None, page=None):
        self.folder, self.port, self.page = Path(folder), port or free_port(), page
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "farabio_like.loggers.visdom", "--port", str(self.port)]
        command += ["--environments", str(self.folder / "environments")]
        command += ["--page", str(self.page)] if self.page else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(self.folder), "XDG_CACHE_HOME": ""}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("env_state")
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def hang(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def ask(self, endpoint, **body):
        asked = request.Request(f"http://127.0.0.1:{self.port}/{endpoint}", json.dumps(body).encode())
        with request.build_opener(request.ProxyHandler({})).open(asked, timeout=5) as answer:
            return json.loads(answer.read() or b"null")

    def windows(self, env):
        """Return the windows of an environment by their titles."""
        return {window["title"]: window for window in self.ask("win_data", win=None, eid=env).values()}

    def curve(self, env, window, name):
        """Return the points of a curve that the server holds."""
        found = next(c for c in self.windows(env)[window]["content"]["data"] if c["name"] == name)
        return dict(zip(found["x"], found["y"], strict=True))

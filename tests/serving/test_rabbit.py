"""Calls over a real RabbitMQ, which the tests start with a node, a port and a folder of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from farabio_like.serving import QueueClient, RemoteError

from .conftest import ROOT, asked, serving, wait_until
from .predictors import Double, Gate

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
pytest.importorskip("faststream", reason="the extra queue is not installed")
pytest.importorskip("litserve", reason="the extra serve is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not SERVER.exists(), reason="Debian's rabbitmq-server is not installed"),
]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Rabbit:
    """A broker of the tests' own."""

    def __init__(self, folder):
        self.port, self.epmd_port = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self.process = self.epmd = None
        (folder / "plugins").write_text("[].\n")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG")},
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"tests{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }
        self.log = folder / "output.txt"

    def start(self):
        if self.epmd is None:
            self.epmd = subprocess.Popen([shutil.which("epmd"), "-port", str(self.epmd_port)], env=self.environment)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [SERVER], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def is_there(self):
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            probe.settimeout(5)
            return bool(probe.recv(1))
        return False

    def stop(self):
        """End the broker and what it has started: they are a session of their own."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process = None

    def end(self):
        self.stop()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory):
    found = Rabbit(tmp_path_factory.mktemp("rabbit"))
    try:
        found.start()
        wait_until(found.is_there, 120)
        yield found
    finally:
        found.end()


def test_calls_come_back_in_number_and_kind(rabbit):
    with serving(Double, queue=rabbit.url, queue_name="kinds"), QueueClient(rabbit.url) as client:
        assert client.call("kinds", 21) == 42
        batch = np.arange(6.0).reshape(2, 3)
        assert np.array_equal(client.call("kinds", batch), 2 * batch)
        with pytest.raises(RemoteError, match="could not convert string to float"):
            client.call("kinds", "poison")
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(lambda n: client.call("kinds", n), range(200))) == [2 * n for n in range(200)]

        async def together():
            return await asyncio.gather(*(client.call_async("kinds", n) for n in range(500)))

        assert asyncio.run(together()) == [2 * n for n in range(500)]


def test_calls_that_nobody_answers_end_and_are_not_worked_for_later(rabbit):
    with QueueClient(rabbit.url) as client:
        with pytest.raises(TimeoutError, match="nobody: no answer within 0.2 seconds"):
            client.call("nobody", 1, timeout=0.2)
        with serving(Double, queue=rabbit.url, queue_name="nobody") as server:
            assert client.call("nobody", 2) == 4
            assert b"farabio_batched_items_total 1\n" in asked(server, "GET", "/metrics")[2]


SERVICE = """
import sys
from farabio_like.serving import Server, ServeSettings
from tests.serving.predictors import Gate

if __name__ == "__main__":
    Server(Gate, ServeSettings(port=0, timeout=0, queue=sys.argv[1], queue_name=sys.argv[2], prefetch=10)).run()
"""


def test_messages_of_a_killed_consumer_come_back(rabbit, tmp_path):
    script, gate = tmp_path / "service.py", tmp_path / "gate"
    script.write_text(SERVICE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "out.txt", "w") as out:
        command = [sys.executable, script, rabbit.url, "killed"]
        first = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        with QueueClient(rabbit.url) as client, ThreadPoolExecutor(6) as threads:
            held = threads.submit(client.call, "killed", str(gate), 120)
            wait_until(lambda: gate.with_suffix(".begun").exists())
            waiting = [threads.submit(client.call, "killed", n, 120) for n in range(5)]
            first.kill()
            first.wait()
            gate.touch()
            with serving(Gate, queue=rabbit.url, queue_name="killed", timeout=0):
                assert held.result() and all(each.result() for each in waiting)  # the sizes of their batches
    finally:
        first.kill()
        first.wait()


def test_a_service_that_ends_answers_what_it_has_and_leaves_the_rest(rabbit, tmp_path):
    gate = tmp_path / "gate"
    with QueueClient(rabbit.url) as client, ThreadPoolExecutor(2) as threads:
        with serving(Gate, queue=rabbit.url, queue_name="ends", timeout=0, drain=600) as server:
            held = threads.submit(client.call, "ends", str(gate), 120)
            wait_until(lambda: gate.with_suffix(".begun").exists())
            server.stop()
            wait_until(lambda: asked(server, "GET", "/ready")[0] == 503)
            later = threads.submit(client.call, "ends", 0, 120)
            gate.touch()
            assert held.result() == 1
        with serving(Gate, queue=rabbit.url, queue_name="ends", timeout=0):
            assert later.result() == 1


def test_a_broker_that_is_not_there_yet_or_goes_is_waited_for(tmp_path):
    broker = Rabbit(tmp_path)
    try:
        with serving(Double, queue=broker.url) as server, QueueClient(broker.url) as client:
            with pytest.raises(TimeoutError):
                client.call("predict", 1, timeout=0.5)
            assert asked(server, "GET", "/health")[0] == 200
            broker.start()
            assert client.call("predict", 1, timeout=120) == 2
            broker.stop()
            broker.start()
            wait_until(broker.is_there, 120)
            assert client.call("predict", 2, timeout=120) == 4
    finally:
        broker.end()

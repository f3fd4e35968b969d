"""What the tests of services share."""

import contextlib
import http.client
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from farabio_like.serving import ServeSettings
from farabio_like.serving.pool import context, end_forkserver

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="session")
def forkserver_imports_this_package():
    """Start the process that workers are forked from once, so that it imports what the tests do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        context()
        forkserver.ensure_running()
    yield
    end_forkserver()


@contextlib.contextmanager
def serving(make, handlers=(), **settings):
    """Run a server on a thread of this process, on a port that the system chooses, until the block ends."""
    from farabio_like.serving import Server

    server = Server(make, ServeSettings(**{"port": 0, "timeout": 0.01, "drain": 0, **settings}), handlers)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.url and asked(server, "GET", "/ready")[0] == 200)
        yield server
    finally:
        server.stop()
        thread.join(60)
        assert not thread.is_alive()


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def connection(server):
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=60)


def asked(server, method, path, body=None, **headers):
    """Return the status, the media type and the body of an answer."""
    with contextlib.closing(connection(server)) as client:
        client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer.status, answer.headers.get("content-type"), answer.read()

"""Calls over a queue: those of the broker in memory; RabbitMQ itself is in test_rabbit."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from farabio_like.errors import ConfigError
from farabio_like.serving import QueueClient, RemoteError, register_codec
from farabio_like.serving.memory import broker
from farabio_like.serving.payloads import forget_codec

from .conftest import asked, serving, wait_until
from .predictors import Double, Gate, Mean, Words
from .test_http import png

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytestmark = pytest.mark.timeout(120)
URL = "memory://tests"


@pytest.fixture(scope="module")
def double():
    with serving(Double, queue=URL) as server:
        yield server


def test_numbers_and_arrays_come_back(double):
    with QueueClient(URL) as client:
        assert client.call("predict", 21) == 42
        batch = np.arange(6.0).reshape(2, 3)
        assert np.array_equal(client.call("predict", batch), 2 * batch)
    assert b'farabio_requests_total{source="queue",status="200"} 2' in asked(double, "GET", "/metrics")[2]


def test_many_calls_at_once_each_get_their_own(double):
    with QueueClient(URL) as client, ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda n: client.call("predict", n), range(100))) == [2 * n for n in range(100)]

        async def together():
            return await asyncio.gather(*(client.call_async("predict", n) for n in range(100)))

        assert asyncio.run(together()) == [2 * n for n in range(100)]


def test_poison_is_answered_with_the_error_and_the_remote_traceback(double):
    with QueueClient(URL) as client:
        with pytest.raises(RemoteError, match="the model failed on this request") as error:
            client.call("predict", "poison")
        assert error.value.status == 500
        assert "ValueError: could not convert string to float: 'poison'" in error.value.traceback
        assert "could not convert" in str(error.value)
        assert client.call("predict", 1) == 2


def test_words_of_its_own_and_pictures():
    with serving(Words, queue="memory://words"), QueueClient("memory://words") as client:
        with pytest.raises(RemoteError, match="decode says no") as error:
            client.call("predict", "decode")
        assert (error.value.status, error.value.traceback) == (418, "")
        assert client.call("predict", "own") == b"\x00own"
    with serving(Mean, queue="memory://mean"), QueueClient("memory://mean") as client:
        assert client.call("predict", png("L", (4, 3), 7)) == {"mode": "L", "size": [4, 3], "mean": 7.0}
        with pytest.raises(RemoteError, match="no picture of a known format"):
            client.call("predict", b"junk")


def test_a_call_waits_for_a_service_and_no_longer_than_it_says(tmp_path):
    url = f"memory://{tmp_path.name}"
    with QueueClient(url) as client:
        with pytest.raises(TimeoutError, match="predict: no answer within 0.05 seconds"):
            client.call("predict", 1, timeout=0.05)
        with pytest.raises(TimeoutError, match="no answer within"):
            asyncio.run(client.call_async("predict", 1, timeout=0.05))
        with ThreadPoolExecutor(1) as threads:
            early = threads.submit(client.call, "predict", 2)
            wait_until(lambda: len(broker(url)._queues["predict"].waiting) == 3)
            with serving(Double, queue=url):
                assert early.result() == 4


def test_messages_under_way_are_answered_when_the_service_ends_and_others_wait(tmp_path):
    url = f"memory://{tmp_path.name}"
    gate = tmp_path / "gate"
    with QueueClient(url) as client, ThreadPoolExecutor(2) as threads:
        with serving(Gate, queue=url, timeout=0, drain=600) as server:
            first = threads.submit(client.call, "predict", str(gate))
            wait_until(lambda: gate.with_suffix(".begun").exists())
            server.stop()
            wait_until(lambda: asked(server, "GET", "/ready")[0] == 503)
            later = threads.submit(client.call, "predict", 0)
            gate.touch()
            assert first.result() == 1
        with serving(Gate, queue=url, timeout=0):
            assert later.result() == 1


def test_a_codec_for_a_class_of_ones_own():
    register_codec("numbers", lambda value: b"%d" % value, int)
    try:
        with serving(Coded, queue="memory://codec"), QueueClient("memory://codec") as client:
            assert client.call("predict", 4, codec="numbers") == 8
            with pytest.raises(RemoteError, match="there is no codec 'words' here"):
                register_codec("words", str.encode, bytes.decode)
                client.call("predict", "x", codec="words")
    finally:
        forget_codec("numbers")
        forget_codec("words")


class Coded(Double):
    def setup(self):
        register_codec("numbers", lambda value: b"%d" % value, int)


def test_an_address_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="expected amqp://"):
        QueueClient("http://localhost")


def test_nothing_stays_of_a_client(double):
    before = threading.active_count()
    with QueueClient(URL) as client:
        client.call("predict", 1)
    assert threading.active_count() <= before + 1  # a worker of the server's may have begun

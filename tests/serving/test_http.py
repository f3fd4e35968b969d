"""The service over HTTP, with real sockets and worker processes."""

import base64
import contextlib
import io
import json
import re
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from farabio_like.errors import ConfigError
from farabio_like.loggers import CSVLogger
from farabio_like.serving import ServeSettings
from farabio_like.serving.handlers import Handler, LoggerHandler, SQLiteHandler

from .conftest import asked, connection, serving, wait_until
from .predictors import Double, Gate, Mean, Words
from .test_payloads import form, npy

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def double():
    with serving(Double, max_body=100_000, max_waiting=64, max_batch=8) as server:
        yield server


@pytest.fixture(scope="module")
def mean():
    with serving(Mean, max_pixels=10_000, token="s3cret") as server:
        yield server


def post(server, body, kind="application/json", **headers):
    body = json.dumps(body).encode() if isinstance(body, dict) else body
    status, media_type, answer = asked(server, "POST", "/predict", body, Content_Type=kind, **headers)
    return status, json.loads(answer) if media_type == "application/json" else answer


def png(*arguments):
    stream = io.BytesIO()
    Image.new(*arguments).save(stream, "PNG")
    return stream.getvalue()


def test_numbers_in_json_and_npy(double):
    assert post(double, {"inputs": [1, 2, 3]}) == (200, {"outputs": [2, 4, 6]})
    batch = np.arange(6.0).reshape(2, 3)
    status, answer = post(double, npy(batch), "application/x-npy")
    assert status == 200 and np.array_equal(np.load(io.BytesIO(answer)), 2 * batch)
    assert post(double, npy(batch), "application/x-npy", Accept="application/json") == (
        200,
        {"outputs": (2 * batch).tolist()},
    )


def test_what_cannot_be_read_is_refused_with_one_line_of_json(double):
    for body, kind, expected in [
        (b"{", "application/json", 422),
        (b"", "application/json", 422),
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"junk", "application/x-npy", 422),
        (b"junk", "multipart/form-data; boundary=x", 422),
        (b"junk", "application/x-codec; name=nobody", 422),
        (b"x" * 100_001, "application/x-npy", 413),
        ({"inputs": [1] * 65}, "application/json", 413),
        ({"inputs": ["word"]}, "application/json", 500),
    ]:
        status, answer = post(double, body, kind)
        assert (status, list(answer)) == (expected, ["error"]), kind
        assert not re.search(r"\n|Traceback|\.py|/work|/home|/usr|/root|/tmp", answer["error"])


def test_a_body_without_a_length_is_refused_where_it_gets_too_long(double):
    with contextlib.closing(connection(double)) as client:
        client.request(
            "POST", "/predict", iter([b"x" * 60_000] * 2), {"Content-Type": "application/x-npy"}, encode_chunked=True
        )
        assert client.getresponse().status == 413


def test_what_is_nested_too_deeply_is_refused_alone(double):
    for depth in (400, 700, 900, 980, 5_000, 40_000):
        status, answer = post(double, b'{"inputs": [' + b"[" * depth + b"]" * depth + b"]}")
        assert status in (422, 500) and list(answer) == ["error"], depth
        assert post(double, {"inputs": [1]}) == (200, {"outputs": [2]})


def test_paths_and_methods_that_are_not_there(double):
    assert asked(double, "GET", "/nothing")[0] == 404
    status, kind, body = asked(double, "GET", "/predict")
    assert (status, kind, json.loads(body)) == (405, "application/json", {"error": "GET /predict: Method Not Allowed"})
    assert asked(double, "GET", "/health")[0] == asked(double, "GET", "/ready")[0] == 200


def test_many_clients_at_once_each_get_their_own(double):
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda n: post(double, {"inputs": [n, n + 1]}), range(60)))
    assert answers == [(200, {"outputs": [2 * n, 2 * n + 2]}) for n in range(60)]


def test_metrics_are_prometheus_text(double):
    post(double, {"inputs": [1]})
    status, kind, body = asked(double, "GET", "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    lines = body.decode().splitlines()
    assert all(re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(\w+="[^"]*",?)+\})? [\d.e+-]+', line) for line in lines)
    numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(numbers['farabio_requests_total{source="http",status="200"}']) >= 1
    assert float(numbers["farabio_workers"]) == 1
    assert numbers["farabio_request_seconds_count"] == numbers['farabio_request_seconds_bucket{le="+Inf"}']


def test_the_pages(double):
    document = json.loads(asked(double, "GET", "/openapi.json")[2])
    assert set(document["paths"]) == {"/predict", "/health", "/ready", "/metrics", "/monitor", "/monitor/hour"}
    assert b"POST /predict" in asked(double, "GET", "/docs")[2]
    assert b"<svg" in asked(double, "GET", "/monitor")[2]
    post(double, {"inputs": [1]})
    post(double, b"{")
    hour = json.loads(asked(double, "GET", "/monitor/hour")[2])
    assert len(hour) == 60 and hour[-1]["minute"] - hour[0]["minute"] == 59 * 60
    assert sum(row["requests"] for row in hour) >= 2 and sum(row["errors"] for row in hour) >= 1
    assert max(row["p99"] or 0 for row in hour) > 0


def test_pictures_by_form_json_and_body(mean):
    grey, colour = png("L", (4, 3), 7), png("RGB", (2, 2), (1, 2, 3))
    headers = {"Authorization": "Bearer s3cret"}
    first = {"mode": "L", "size": [4, 3], "mean": 7.0}
    assert post(mean, *form(("file", grey)), **headers) == (200, first)
    second = {"mode": "RGB", "size": [2, 2], "mean": 2.0}
    assert post(mean, *form(("file", grey), ("file", colour)), **headers) == (200, {"outputs": [first, second]})
    assert post(mean, {"image": base64.b64encode(grey).decode()}, **headers) == (200, first)
    assert post(mean, grey, "image/png", **headers) == (200, first)
    assert post(mean, grey[:50], "image/png", **headers)[0] == 422
    assert post(mean, b"no picture", "image/png", **headers)[0] == 422
    assert post(mean, png("L", (101, 100)), "image/png", **headers)[0] == 413


def test_without_the_token_nothing_is_told(mean):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "s3cret"},
        {"Authorization": "Basic s3cret"},
        {"Authorization": "Bearer s3cret2"},
        {"Authorization": "Bearer \xff"},
    ):
        assert post(mean, {"inputs": [1]}, **headers)[0] == 401
        assert asked(mean, "GET", "/metrics", **headers)[0] == asked(mean, "GET", "/monitor/hour", **headers)[0] == 401
    assert asked(mean, "GET", "/metrics", Authorization="bearer s3cret")[0] == 200
    basic = base64.b64encode(b"anybody:s3cret").decode()
    assert asked(mean, "GET", "/monitor", Authorization=f"Basic {basic}")[0] == 200
    assert asked(mean, "GET", "/ready")[0] == 200
    assert "s3cret" not in repr(mean.settings)


def test_own_words_reach_their_client():
    with serving(Words, timeout=0.3, max_batch=4) as server, ThreadPoolExecutor(4) as clients:
        words = ["fine", "decode", "predict", "encode"]
        answers = list(clients.map(lambda word: post(server, {"inputs": [word]}), words))
        assert [status for status, _ in answers] == [200, 418, 409, 451]
        assert answers[1][1] == {"error": "decode says no"}


def test_clients_that_go_are_not_worked_for(tmp_path):
    with serving(Gate, timeout=0, max_waiting=1000) as server, ThreadPoolExecutor(2) as clients:
        gate = tmp_path / "gate"
        first = clients.submit(post, server, {"inputs": [str(gate)]})
        wait_until(lambda: gate.with_suffix(".begun").exists())
        gone = []
        for _ in range(200):
            client = connection(server)
            client.request("POST", "/predict", b'{"inputs": [0]}', {"Content-Type": "application/json"})
            gone.append(client)

        def number(name):
            text = asked(server, "GET", "/metrics")[2].decode()
            return int(re.search(rf"^farabio_{name} (\d+)$", text, re.M)[1])

        wait_until(lambda: number("waiting_items") == 200)
        for client in gone:
            client.close()
        wait_until(lambda: number("abandoned_requests_total") == 200)
        assert number("waiting_items") == 0
        last = clients.submit(post, server, {"inputs": [0]})
        gate.touch()
        assert first.result()[0] == last.result()[0] == 200
        assert number("batched_items_total") == 2


def test_too_many(tmp_path):
    with serving(Gate, timeout=0, max_waiting=1) as server, ThreadPoolExecutor(2) as clients:
        gate = tmp_path / "gate"
        first = clients.submit(post, server, {"inputs": [str(gate)]})
        wait_until(lambda: gate.with_suffix(".begun").exists())
        second = clients.submit(post, server, {"inputs": [0]})
        wait_until(lambda: b"farabio_waiting_items 1" in asked(server, "GET", "/metrics")[2])
        assert post(server, {"inputs": [0]}) == (429, {"error": "1 items are waiting already; try again later"})
        gate.touch()
        assert first.result()[0] == second.result()[0] == 200


def test_too_long(tmp_path):
    with serving(Gate, timeout=0, max_seconds=0.3) as server:
        gate = tmp_path / "gate"
        late = (503, {"error": "there was no answer within 0.3 seconds"})
        assert post(server, {"inputs": [str(gate)]}) == post(server, {"inputs": [0]}) == late
        with socket.create_connection(server.url.removeprefix("http://").split(":")) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
        gate.touch()


def test_under_way_is_answered_and_new_ones_are_refused_while_it_ends(tmp_path):
    gate = tmp_path / "gate"
    with serving(Gate, timeout=0, drain=600) as server, ThreadPoolExecutor(1) as clients:
        first = clients.submit(post, server, {"inputs": [str(gate)]})
        wait_until(lambda: gate.with_suffix(".begun").exists())
        server.stop()
        wait_until(lambda: asked(server, "GET", "/ready")[0] == 503)
        assert asked(server, "GET", "/health")[0] == 200
        assert post(server, {"inputs": [0]}) == (503, {"error": "the service is ending"})
        gate.touch()
        assert first.result() == (200, {"outputs": [1]})


class Broken(Handler):
    def handle(self, exchange):
        raise ValueError("a mistake")


class Seen(Handler):
    def __init__(self):
        self.exchanges = []
        self.thread = None

    def handle(self, exchange):
        self.exchanges.append(exchange)
        self.thread = threading.current_thread()


def test_handlers_see_each_request_and_answer(tmp_path, capfd):
    seen = Seen()
    handlers = [Broken(), seen, SQLiteHandler(tmp_path / "log.db"), LoggerHandler(CSVLogger(), tmp_path / "log", 0.0)]
    with serving(Double, handlers=handlers) as server:
        post(server, {"inputs": [4, 5]})
        post(server, b"{")
    assert [(each.source, each.status, each.items) for each in seen.exchanges] == [
        ("http", 200, [4, 5]),
        ("http", 422, []),
    ]
    assert json.loads(seen.exchanges[0].answer) == {"outputs": [8, 10]}
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as database:
        rows = database.execute("SELECT source, items, status, answer FROM exchanges").fetchall()
    assert rows[0] == ("http", 2, 200, '{"outputs": [8.0, 10.0]}') and rows[1][1:3] == (0, 422)
    assert list((tmp_path / "log").iterdir())
    assert capfd.readouterr().err.count("ValueError: a mistake") == 1


def test_what_the_workers_cannot_be_given_is_refused_at_once():
    from farabio_like.serving import Server

    class Local(Double):
        pass

    for make, said in (
        (Local, "Give a class at the top level"),
        (Double(), "give the class itself"),
        (7, "class itself"),
    ):
        with pytest.raises(ConfigError, match=said):
            Server(make)


@pytest.mark.parametrize(
    "name, value",
    [
        ("workers", 0),
        ("workers", 1.5),
        ("max_batch", -1),
        ("port", 70_000),
        ("timeout", -0.1),
        ("timeout", float("nan")),
        ("timeout", "1"),
        ("token", ""),
        ("token", "ü"),
        ("time_limit", 0),
        ("drain", float("inf")),
        ("max_body", True),
    ],
)
def test_settings_are_checked(name, value):
    with pytest.raises(ConfigError, match=name):
        ServeSettings(**{name: value})

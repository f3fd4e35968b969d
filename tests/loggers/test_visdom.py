"""A real visdom server on loopback: there, killed, hung, absent; what it holds is what the run recorded."""

import json
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from farabio_like import ConfigError
from farabio_like.loggers import worker
from farabio_like.loggers.curves import MOST_KEPT, MOST_POINTS, Curve, thin
from farabio_like.loggers.visdom import VisdomLogger

from ..trainers import Tiny
from .server import ROOT, Server, free_port

pytest.importorskip("visdom")


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path)
    yield found
    found.kill()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """Return a server that stays up for the tests of this module that leave it alone."""
    found = Server(tmp_path_factory.mktemp("visdom")).start()
    yield found
    found.kill()


class Shows(Tiny):
    """Records one of each, and a metric that is not finite."""

    def on_epoch_end(self):
        self.loggers.images("inputs", torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
        self.loggers.images("masks", torch.arange(12).reshape(3, 2, 2))
        self.loggers.matrix("confusion matrix", torch.tensor([[5, 1], [2, 7]]), ["cat", "dog"])
        self.loggers.text("note", "<script>alert(1)</script>")
        self.history[-1]["train"]["odd"] = float("nan") if self.epoch == 2 else float(self.epoch)


def run(trainer):
    """Train, and return the warnings and the weights."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    ours = [str(warning.message) for warning in caught if "VisdomLogger" in str(warning.message)]
    assert not [thread for thread in threading.enumerate() if "farabio_like" in thread.name]
    return ours, trainer.model.state_dict()


def expected(history, part, name):
    return {entry["epoch"]: entry[part][name] for entry in history}


def test_server_holds_what_was_recorded(lasting):
    trainer = Shows({"_loggers": VisdomLogger(port=lasting.port), "_logdir": "runs", "_log_interval": 2})
    said, _ = run(trainer)
    assert said == []
    windows = lasting.windows("Shows_1")
    assert set(windows) == {
        *("run info", "loss", "odd", "lr", "seconds", "running/loss", "running/lr"),
        *("inputs", "masks", "confusion matrix", "note"),
    }
    loss = windows["loss"]["content"]
    assert [curve["name"] for curve in loss["data"]] == ["train", "valid"]
    assert loss["layout"]["showlegend"]
    assert (loss["layout"]["xaxis"]["title"], loss["layout"]["yaxis"]["title"]) == ("epoch", "loss")
    for part in ("train", "valid"):
        assert lasting.curve("Shows_1", "loss", part) == expected(trainer.history, part, "loss")
    assert list(lasting.curve("Shows_1", "odd", "train").values()) == [1.0, None]
    assert list(lasting.curve("Shows_1", "running/loss", "running/loss")) == [2, 4, 6]
    assert windows["running/loss"]["content"]["layout"]["xaxis"]["title"] == "step"
    matrix = windows["confusion matrix"]["content"]
    assert matrix["data"][0]["z"] == [[5, 1], [2, 7]]
    assert matrix["data"][0]["y"] == ["cat", "dog"]
    assert matrix["layout"]["yaxis"]["autorange"] == "reversed"  # row 0 on top
    assert windows["inputs"]["content"]["src"].startswith("data:image/png;base64,")
    assert "&lt;script&gt;" in windows["note"]["content"] and "<script>" not in windows["note"]["content"]
    assert "Shows: finished" in windows["run info"]["content"]
    saved = json.loads((lasting.folder / "environments" / "Shows_1.json").read_text())
    assert {window["title"] for window in saved["jsons"].values()} == set(windows)


def test_weights_are_the_same_with_server_without_and_with_none(lasting):
    _, plain = run(Tiny({"_num_epochs": 4}))
    _, shown = run(Tiny({"_num_epochs": 4, "_loggers": VisdomLogger(port=lasting.port, env="same")}))
    said, absent = run(Tiny({"_num_epochs": 4, "_loggers": VisdomLogger(port=free_port())}))
    for weights in (shown, absent):
        assert all(torch.equal(plain[name], weights[name]) for name in plain)
    assert len(said) == 2
    assert "Connection refused" in said[0]
    assert "could not write to the end" in said[1]


class Interrupted(Tiny):
    """Does something to the server in epoch 3, and waits until the server is heard of again in epoch 6."""

    def on_epoch_end(self):
        worker = self._run_state.recording.workers[0]
        if self.epoch == 3:
            wait_for(lambda: not worker.logger.due and worker.logger.next_time)
            self.break_server()
            self.loggers.text("note", "goes")
            wait_for(lambda: worker.down)
        if self.epoch == 6:
            self.mend_server()
            wait_for(lambda: not worker.down)


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def impatient(monkeypatch):
    """Wait less between two tries than a run of hours does."""
    monkeypatch.setattr(worker, "LONGEST_PAUSE", 0.5)


def check_interrupted(trainer, server, env):
    """Train, and look at what the server holds in the end, and at the weights."""
    said, weights = run(trainer)
    assert len(said) == 2, said
    assert "cannot write" in said[0] and "writes again; nothing is lost" in said[1]
    for part in ("train", "valid"):
        assert server.curve(env, "loss", part) == expected(trainer.history, part, "loss")
    assert list(server.curve(env, "running/loss", "running/loss")) == list(range(1, 25))
    _, plain = run(Tiny({"_num_epochs": 8}))
    assert all(torch.equal(plain[name], weights[name]) for name in plain)


def interrupted(server, env):
    return Interrupted({"_num_epochs": 8, "_loggers": VisdomLogger(port=server.port, env=env), "_log_interval": 1})


@pytest.mark.integration
def test_points_are_complete_after_a_killed_server_returns(server, impatient):
    server.start()
    trainer = interrupted(server, "killed")
    trainer.break_server, trainer.mend_server = server.kill, server.start
    check_interrupted(trainer, server, "killed")


@pytest.mark.integration
def test_points_are_complete_after_an_absent_server_comes(server, impatient):
    trainer = interrupted(server, "absent")
    trainer.mend_server = server.start
    trainer.on_epoch_end = lambda: Interrupted.on_epoch_end(trainer) if trainer.epoch == 6 else None
    check_interrupted(trainer, server, "absent")


@pytest.mark.integration
def test_points_are_complete_after_a_hung_server_goes_on(lasting, impatient):
    trainer = interrupted(lasting, "hung")
    trainer.break_server, trainer.mend_server = lasting.hang, lasting.go_on
    try:
        check_interrupted(trainer, lasting, "hung")
    finally:
        lasting.go_on()


@pytest.mark.integration
def test_server_that_was_killed_amid_a_save_takes_the_run_again(server):
    environments = server.folder / "environments"
    environments.mkdir(parents=True)
    (environments / "Cut.json").write_text('{"jsons": {"window": {"comma')
    server.start()
    trainer = Tiny({"_num_epochs": 2, "_loggers": VisdomLogger(port=server.port, env="Cut")})
    said, _ = run(trainer)
    assert not said
    assert server.curve("Cut", "loss", "train") == expected(trainer.history, "train", "loss")
    assert (environments / "Cut.damaged").exists()


@pytest.mark.integration
def test_end_of_a_run_is_bounded_while_the_server_hangs(lasting):
    lasting.hang()
    logger = VisdomLogger(port=lasting.port)
    logger.close_seconds = 2.0
    started = time.monotonic()
    try:
        said, _ = run(Tiny({"_loggers": logger}))
    finally:
        lasting.go_on()
    assert time.monotonic() - started < logger.close_seconds + 5
    assert len(said) == 2


def test_run_that_goes_on_shows_its_earlier_points(lasting):
    trainer = Tiny({"_loggers": "visdom", "_logdir": "runs", "visdom_port": lasting.port, "visdom_env": "on"})
    trainer._loggers = VisdomLogger()
    trainer.train()
    tested = trainer.test()
    trainer._loggers = VisdomLogger()  # as another process has it
    trainer.train()
    assert lasting.curve("on", "loss", "train") == expected(trainer.history, "train", "loss")
    assert lasting.curve("on", "loss", "test") == {2: tested["loss"]}
    assert len(trainer.history) == 4


def test_address_comes_from_the_logger_then_the_configuration_then_the_environment(monkeypatch):
    monkeypatch.setenv("VISDOM_SERVER", "http://there/visdom")
    monkeypatch.setenv("VISDOM_PORT", "1234")
    logger = VisdomLogger(env="a/b")
    logger.start({}, None)
    assert (logger.url, logger.env) == ("http://there:1234/visdom", "a_b")
    logger.start({"visdom_port": 99, "visdom_server": "https://here/"}, None)
    assert logger.url == "https://here:99"
    logger = VisdomLogger("127.0.0.1", 5)
    logger.start({"visdom_port": 99}, None)
    assert logger.url == "http://127.0.0.1:5"
    assert "secret" not in repr(VisdomLogger(username="me", password="secret"))


@pytest.mark.parametrize("arguments", [{"port": 0}, {"port": "http"}, {"server": "ftp://x"}])
def test_addresses_that_cannot_be_are_refused(arguments):
    with pytest.raises(ConfigError, match="VisdomLogger"):
        VisdomLogger(**arguments)


def test_thin_curves_keep_their_extremes_and_ends():
    x = np.arange(12_345.0)
    y = np.sin(x / 50)
    y[777], y[9_000], y[5_000] = 40, -40, math.nan
    kept_x, kept_y = thin(x, y, MOST_POINTS)
    assert len(kept_x) <= MOST_POINTS
    assert (np.diff(kept_x) > 0).all()
    assert {0.0, 777.0, 9_000.0, 12_344.0} <= set(kept_x)
    assert (kept_y == y[kept_x.astype(int)])[np.isfinite(kept_y)].all()


def test_curves_are_bounded_in_memory_and_short_ones_whole():
    curve = Curve()
    for step in range(MOST_KEPT + 1):
        curve.add(step, 100.0 if step == 5 else 0.0)
    assert len(curve.points) <= MOST_KEPT // 2
    assert curve.points[5] == 100.0
    short = Curve()
    for x, y in ((2, 1.0), (1, math.inf), (2, 3.0)):
        short.add(x, y)
    assert short.drawn() == ([1, 2], [None, 3.0])


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_server_listens_on_loopback_only(lasting):
    sockets = [line.split() for file in ("tcp", "tcp6") for line in open(f"/proc/net/{file}").readlines()[1:]]
    listening = {local for _, local, _, state, *_ in sockets if state == "0A"}
    assert [local for local in listening if int(local.split(":")[1], 16) == lasting.port] == [
        f"0100007F:{lasting.port:04X}"
    ]


def test_server_says_that_its_port_is_taken(lasting, tmp_path):
    command = [sys.executable, "-m", "farabio_like.loggers.visdom", "--port", str(lasting.port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {lasting.port} cannot be served: Address already in use. Write --port 8098." in done.stderr
    assert "--fetch" in done.stderr

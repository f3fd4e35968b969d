"""``farabio-like serve`` as it is called: misuse, and a service from its start to its end."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from farabio_like.cli.main import main

from .conftest import ROOT, asked, wait_until
from .test_payloads import form, npy

pytest.importorskip("litserve", reason="the extra serve is not installed")
pytest.importorskip("typer", reason="the extra cli is not installed")
pytestmark = pytest.mark.timeout(300)

DOUBLE = f"{Path(__file__).parent}/predictors.py:Double"


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "there is nothing to serve"),
        (["runs/Digits/7"], "there is no runs/Digits/7"),
        (["nowhere.py:Class"], "there is no file nowhere.py"),
        ([DOUBLE, "--workers", "0"], "workers is 0; expected 1 or more"),
        ([DOUBLE, "--port", "eight"], "--port"),
        ([DOUBLE, "--queue", "http://x"], "expected amqp://"),
        ([DOUBLE, "--checkpoint", "best"], "is a class, and has no checkpoint"),
        ([DOUBLE, "--docker", "there"], "there/Dockerfile is there already"),
    ],
)
def test_misuse_ends_with_status_2_and_one_line(arguments, said, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "Dockerfile").touch()
    assert main(["serve", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("\n") == 1


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", DOUBLE, "--port", str(port)]) == 2
    assert f"127.0.0.1 port {port} cannot be had: Address already in use" in capsys.readouterr().err


class Command:
    """``farabio-like serve`` in a session of its own."""

    def __init__(self, folder, *arguments):
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "farabio_like", "serve", *map(str, arguments), "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def url(self):
        first = self.log.read_text().partition("serving at ")[2].partition("\n")[0]
        assert self.process.poll() is None, self.log.read_text()
        return first

    def __enter__(self):
        wait_until(lambda: self.url, 120)
        wait_until(lambda: asked(self, "GET", "/ready")[0] == 200, 120)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def session(self):
        """Return the processes of its session."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(status.parent.name))
        return found


def test_from_the_start_to_sigterm(tmp_path):
    with Command(tmp_path, DOUBLE, "--workers", "2", "--token", "s3cret", "--log", "log.db") as command:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer s3cret"}
        assert asked(command, "POST", "/predict", b'{"inputs": [4]}')[0] == 401
        assert json.loads(asked(command, "POST", "/predict", b'{"inputs": [4]}', **headers)[2]) == {"outputs": [8.0]}
        assert len(command.session()) >= 4
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(60) == 0
        wait_until(lambda: not command.session())
    assert "Traceback" not in command.log.read_text()
    assert (tmp_path / "log.db").exists()


@pytest.mark.slow
def test_when_it_is_killed_no_worker_stays(tmp_path):
    with Command(tmp_path, DOUBLE, "--workers", "2") as command:
        command.process.kill()
        command.process.wait()
        wait_until(lambda: not command.session())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, said",
    [("NoSetup", "the predictor cannot be set up: FileNotFoundError"), ("DiesInSetup", "has died 5 times in a row"),
     ("Nothing", "has no 'Nothing'")],
)  # fmt: skip
def test_what_cannot_be_set_up_ends_it_with_status_1(tmp_path, name, said):
    command = Command(tmp_path, DOUBLE.replace("Double", name))
    try:
        assert command.process.wait(120) == 1
        assert said in command.log.read_text().splitlines()[-1]
        wait_until(lambda: not command.session())
    finally:
        command.process.kill()
        command.process.wait()


TRAIN = """
import torch
from torch import nn
from farabio_like import ConvnetTrainer
from farabio_like.export import export


class Small(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs, self._device, self._verbose = 1, "cpu", False

    def define_data_attr(self):
        self.input_spec = {"mode": "L", "size": 8, "classes": ["a", "b", "c"]}

    def get_trainloader(self):
        self.train_loader = [(torch.rand(6, 1, 8, 8), torch.arange(6) % 3)]

    def build_model(self):
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters())


if __name__ == "__main__":
    trainer = Small()
    trainer.train()
    export(trainer, "model.pth")
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["model.pth", "runs/Small/1"])
def test_a_run_and_a_file_answer_as_they_do_without_a_server(target, tmp_path, python):
    from farabio_like.export import TrainedModel

    python(TRAIN)
    model = TrainedModel.load(tmp_path / "model.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    pictures = []
    for each in pixels:
        stream = io.BytesIO()
        Image.fromarray(each).save(stream, "PNG")
        pictures.append(stream.getvalue())
    expected = model.predict([model.prepare(each) for each in pictures])
    (tmp_path / "serve.yml").write_text(f"serve: ${{MODEL:-{target}}}\nmax_batch: 2\n")
    with Command(tmp_path, "--config", "serve.yml") as command:
        for picture, answer in zip(pictures, expected, strict=True):
            status, kind, body = asked(command, "POST", "/predict", picture, Content_Type="image/png")
            assert (status, kind) == (200, "application/json") and close(json.loads(body), answer)
        body, kind = form(*(("file", each) for each in pictures))
        answers = json.loads(asked(command, "POST", "/predict", body, Content_Type=kind)[2])["outputs"]
        assert all(map(close, answers, expected)) and len(answers) == 3
        answers = asked(command, "POST", "/predict", npy(pixels), Content_Type="application/x-npy")[2]
        assert all(map(close, json.loads(answers)["outputs"], expected))
        assert asked(command, "POST", "/predict", b"junk", Content_Type="image/png")[0] == 422


def close(found, expected):
    return found["class"] == expected["class"] and found["probabilities"] == pytest.approx(expected["probabilities"])

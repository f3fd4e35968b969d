"""A terminal, a pipe, a disk that take no output: the run goes on, with the same weights, and its folder says why."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from farabio_like.loggers.console import Bar, Console, write_line

from ..conftest import ROOT
from ..trainers import Tiny

SCRIPT = """
import sys
from tests.trainers import Tiny
trainer = Tiny({"_logdir": "LOGDIR", "_verbose": True, "_use_tqdm": BAR, "_num_epochs": 4})
trainer.train()
"""


def run(redirection, logdir="runs", bar="None", **environment):
    """Train in a shell; return its exit status, what it wrote to stderr, the notes and the weights."""
    Path("train.py").write_text(SCRIPT.replace("LOGDIR", logdir).replace("BAR", bar), encoding="utf-8")
    command = f"set -o pipefail; {sys.executable} train.py {redirection}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", **environment}
    ended = subprocess.run(["bash", "-c", command], capture_output=True, env=variables)
    (folder,) = Path(logdir, "Tiny").iterdir()
    notes = folder / "notes.txt"
    said = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    return ended, said, torch.load(folder / "model.pth", weights_only=True)


@pytest.fixture
def expected():
    trainer = Tiny({"_logdir": None, "_num_epochs": 4})
    trainer.train()
    return trainer.model.state_dict()


def same(weights, expected):
    return all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("redirection", "status", "note"),
    [
        ("| true", 0, "BrokenPipeError"),
        ("| head -n 1", 0, "BrokenPipeError"),
        ("> /dev/full", 0, "No space left on device"),
        (">&-", 0, None),  # then there is no sys.stdout
    ],
)
def test_stdout_that_takes_nothing(expected, redirection, status, note):
    ended, said, weights = run(redirection)
    assert same(weights, expected)
    assert ended.returncode == status, ended.stderr
    assert [note in line for line in said] == ([True] if note else [])


@pytest.mark.parametrize("redirection", ["2> /dev/full", "2> >(true)", "2>&-"])
def test_stderr_that_takes_no_bar(expected, redirection):
    ended, _, weights = run(redirection, bar="True")
    assert same(weights, expected) and ended.returncode == 0
    assert b"files in" in ended.stdout


def test_an_encoding_that_lacks_a_character(expected):
    ended, (said,), weights = run("", logdir="läufe", PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert same(weights, expected) and ended.returncode == 0
    assert b"files in l\\xe4ufe/Tiny/1" in ended.stdout
    assert "encoding ascii" in said


class Closed(io.StringIO):
    def write(self, text):
        raise ValueError("I/O operation on closed file")

    def isatty(self):
        raise ValueError("I/O operation on closed file")


class Full(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


class Odd:
    """What a notebook or a test runner may put in place of the terminal."""

    encoding = None

    def write(self, text):
        raise UnicodeEncodeError("latin-1", text, 0, 1, "no")

    def isatty(self):
        return True

    def flush(self):
        pass


@pytest.mark.parametrize("stream", [None, Closed(), Full(), Odd()], ids=lambda stream: type(stream).__name__)
def test_objects_in_place_of_the_terminal(monkeypatch, expected, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    trainer = Tiny({"_logdir": "runs", "_verbose": True, "_use_tqdm": True, "_num_epochs": 4})
    trainer.train()
    assert same(trainer.model.state_dict(), expected)
    trainer.test()
    assert (trainer.run_dir / "notes.txt").exists() == (stream is not None)


def test_a_line_that_cannot_be_written_is_told_once():
    console = Console()
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert write_line("plain", stream) is None
    problem = write_line("Größe", stream)
    assert "encoding ascii" in problem
    assert stream.buffer.getvalue() == b"plain\nGr\\xf6\\xdfe\n"
    console.note(problem)
    console.note("another one")
    assert console.problem == problem


def test_a_bar_that_cannot_be_drawn_gives_up_and_says_why(monkeypatch):
    problems = []
    monkeypatch.setattr(sys, "stderr", Full())
    bar = Bar("train", 10, None, problems.append)
    for _ in range(3):
        bar.due = 0.0 if bar.due != float("inf") else bar.due
        bar.tick()
    bar.close()
    assert len(problems) == 1 and "No space left" in problems[0]

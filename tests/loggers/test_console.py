"""What a run prints: lines of at most 80 columns to stdout, and a bar to a terminal that goes away again."""

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from types import SimpleNamespace

import pytest
import torch

from farabio_like.loggers import console
from farabio_like.loggers.console import Console, number, rate, seconds

from ..conftest import ROOT
from ..trainers import Tiny


def entry(epoch, train, valid=None, lr=0.1, seconds=1.0):
    return {"epoch": epoch, "train": train, "valid": valid or {}, "lr": lr, "seconds": seconds}


def printed(capsys, entries, last_epoch=10, best=False):
    shown = Console()
    for one in entries:
        shown.epoch(one, last_epoch, best)
    return capsys.readouterr().out.split("\n")[:-1]


# ---------------------------------------------------------------- the table


def test_the_table_of_a_small_run(capsys):
    lines = printed(
        capsys,
        [
            entry(1, {"loss": 2.0, "accuracy": 0.25}, {"loss": 1.5, "accuracy": 0.5}, lr=1e-3, seconds=0.31),
            entry(2, {"loss": 1.0, "accuracy": 0.75}, lr={"a": 1e-5, "b": 1.0}, seconds=75),
        ],
        last_epoch=12,
        best=True,
    )
    assert [line.split() for line in lines] == [
        [],
        ["train", "valid"],
        ["epoch", "loss", "accuracy", "loss", "accuracy", "lr", "time"],
        ["1/12", "2.0000", "0.2500", "1.5000", "0.5000", "1.00e-03", "0.3s", "*"],
        ["2/12", "1.0000", "0.7500", "-", "-", "1.00e-05", "1m15s", "*"],
    ]
    assert len({len(line) for line in lines[3:]}) == 1, "the lines are aligned"
    for name in ("epoch", "loss", "accuracy"):
        end = lines[2].index(name) + len(name)
        assert lines[3][end - 1] != " " and lines[3][end] == " ", "and stand under their headings"


VALUES = [0.0, 1.0, -1.0, 123.456, 9999.99999, -9999.99999, -999.99999, 1e4, -1e4, 1e-3, -1e-5, 9.99e99, -1.5e300]
VALUES += [math.nan, math.inf, -math.inf, 1e-310, -1e-310, 5, -12345]


@pytest.mark.parametrize("value", VALUES)
def test_a_number_has_at_most_nine_characters_and_its_value(value):
    shown = number(value)
    assert len(shown) <= 9
    assert float(shown) == pytest.approx(value, rel=0.06, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.0s"),
        (59.94, "59.9s"),
        (60, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (7620, "2h07m"),
        (86399, "23h59m"),
    ],
)
def test_durations(value, shown):
    assert seconds(value) == shown


def test_learning_rates():
    assert rate(1e-3) == "1.00e-03" and rate(None) == rate({}) == "-"
    assert rate({"generator": 0.5, "critic": 0.1}) == "5.00e-01"


@pytest.mark.parametrize("last_epoch", [1, 10, 10_000, 10_000_000])
@pytest.mark.parametrize("names", [0, 1, 2, 3, 5, 40])
def test_no_line_is_wider_than_80_columns(capsys, names, last_epoch):
    for length in (1, 8, 9, 10, 16, 17, 200):
        for value in (0.5, -1.5e300, -9999.99999, math.nan):
            metrics = {f"{'x' * (length - 2)}{i}": value for i in range(names)}
            entries = [entry(epoch, metrics, metrics, seconds=3e5) for epoch in (1, last_epoch)]
            lines = printed(capsys, entries, last_epoch, best=True)
            assert "epoch" in lines[2] and len(lines) >= 5
            assert max(map(len, lines)) <= 80
            assert len({len(line) for line in lines[-2:]}) == 1, "the lines are aligned"


def test_what_does_not_fit_is_counted(capsys):
    metrics = {f"metric{i}": 1.0 for i in range(10)}
    lines = printed(capsys, [entry(1, metrics, metrics)])
    heading = lines[2].split()
    assert heading[1:3] == ["metric0", "metric1"] == heading[3:5]
    assert "(16 more columns do not fit here; they are in the history)" in lines


def test_a_long_name_is_cut_visibly(capsys):
    lines = printed(capsys, [entry(1, {"mean_average_precision_50": 1.0})])
    assert "mean_average_pr~" in lines[2]


def test_headings_come_again_when_a_metric_is_new(capsys):
    lines = printed(
        capsys, [entry(1, {"a": 1.0}), entry(2, {"a": 1.0}), entry(3, {"a": 1.0, "b": 2.0}), entry(4, {"b": 1.0})]
    )
    headings = [line.split() for line in lines if "epoch" in line]
    assert headings == [["epoch", "a", "lr", "time"], ["epoch", "a", "b", "lr", "time"]]
    assert lines[-1].split()[1:3] == ["-", "1.0000"]


def test_lists_of_numbers_are_left_to_the_history(capsys):
    lines = printed(capsys, [entry(1, {"loss": 1.0, "recall": [0.1, 0.9]})])
    assert "recall" not in "".join(lines)


def test_once_is_once(capsys):
    shown = Console()
    for _ in range(3):
        shown.once("said")
    assert capsys.readouterr().out == "said\n"


# ---------------------------------------------------------------- a run


class Shown(Tiny):
    def define_log_attr(self):
        self.names = [f"metric_with_a_rather_long_name_{i}" for i in range(self.config.get("metrics", 0))]

    def define_misc_attr(self):
        super().define_misc_attr()
        self._verbose = self.config.get("_verbose", True)

    def compute_loss(self):
        self.batch_metrics.update(dict.fromkeys(self.names, -123456.0))
        return super().compute_loss()


def test_a_run_says_what_where_and_how_well(capsys):
    trainer = Shown({"_num_epochs": 3, "_logdir": "runs"})
    history = trainer.train()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "Shown: 4 parameters on cpu, epochs 1 to 3"
    assert lines[1] == lines[-1] == "files in runs/Shown/1"
    rows = [line for line in lines if re.match(r" *\d/3 ", line)]
    assert [row.split()[2] for row in rows] == [f"{one['valid']['loss']:.4f}" for one in history]
    best = min(history, key=lambda one: one["valid"]["loss"])
    assert f"best (*) valid loss {best['valid']['loss']:.4f} in epoch {best['epoch']}" in out
    assert [row.endswith("*") for row in rows][best["epoch"] - 1]
    assert err == ""
    trainer.test()
    assert re.search(r"test +loss \d+\.\d{4}\nweights: runs.*best\.ckpt, epoch \d\n", capsys.readouterr().out)


@pytest.mark.parametrize("settings", [{"_num_epochs": 0}, {"_num_epochs": 3}, {"_num_epochs": 10, "metrics": 30}])
def test_no_line_of_a_training_is_wider_than_80_columns_nor_has_control_characters(capsys, settings):
    Shown(settings).train()
    check_lines(*capsys.readouterr())


def test_no_line_of_a_test_is_wider_than_80_columns(capsys):
    Shown({"metrics": 30}).test()
    check_lines(*capsys.readouterr())


def check_lines(out, err):
    assert max(map(len, out.splitlines())) <= 80, max(out.splitlines(), key=len)
    assert not re.search(r"[^\x20-\x7e\n]", out)
    assert err == "", "no bar where stderr is no terminal"


def test_not_verbose_prints_nothing(capfd):
    trainer = Shown({"_verbose": False, "_num_epochs": 2, "_logdir": "runs", "metrics": 3})
    trainer.valid_loader = None
    trainer.train()
    trainer.test()
    trainer.predict([torch.ones(1, 3)])
    assert capfd.readouterr() == ("", "")


def test_not_verbose_prints_nothing_for_several_devices_either(capfd):
    Shown({"_verbose": False, "_data_parallel": True}).train()
    assert capfd.readouterr() == ("", "")


def test_no_valid_loader_is_said_once(capsys):
    trainer = Shown({"_num_epochs": 3})
    trainer.valid_loader = None
    trainer.train()
    assert capsys.readouterr().out.count("there is no valid loader") == 1


def test_no_valid_loader_is_said_in_80_columns(capsys):
    trainer = Shown({"_num_epochs": 1})
    trainer.valid_loader = None
    trainer.train()
    check_lines(*capsys.readouterr())


def test_no_epochs_are_said_once(capsys):
    assert Shown({"_num_epochs": 0}).train() == []
    assert capsys.readouterr().out.count("no epoch was asked for") == 1


# ---------------------------------------------------------------- the bar


def test_a_bar_where_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(console, "REDRAW_SECONDS", 0)
    trainer = Shown({"_num_epochs": 1, "_use_tqdm": True})
    trainer.train()
    assert not [thread for thread in threading.enumerate() if "tqdm" in thread.name]
    out, err = capsys.readouterr()
    assert "epoch 1/1 train" in err and "epoch 1/1 valid" in err and "3/3" in err
    assert "\r" not in out and "it/s" not in out


def test_no_bar_where_it_is_not_wanted_or_there_is_one_already(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert Console(use_tqdm=False).bar("train", 3, "epoch 1/1") is None
    assert Console(use_tqdm=None).bar("train", 3, "epoch 1/1") is not None
    monkeypatch.setattr(sys, "stderr", None)
    assert Console(use_tqdm=None).bar("train", 3, "epoch 1/1") is None


def test_a_quick_pass_draws_no_bar(capsys):
    bar = Console(use_tqdm=True).bar("train", 3, "epoch 1/1")
    for _ in range(3):
        bar.tick()
    bar.close()
    assert capsys.readouterr().err == ""


def test_a_bar_is_drawn_at_most_ten_times_a_second(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console, "perf_counter", lambda: now[0])
    bar = Console(use_tqdm=True).bar("train", 1000, "epoch 1/1")
    drawn = []
    monkeypatch.setattr(bar, "draw", lambda: (drawn.append(now[0]), type(bar).draw(bar)))
    for _ in range(1000):
        now[0] += 0.001
        bar.tick()
    bar.close()
    assert 8 <= len(drawn) <= 10
    assert bar.bar.n > 900, "and counts every batch"


SLOW = """
import time
from tests.trainers import Still
class Slow(Still):
    def on_end_training_batch(self):
        time.sleep(0.12)
Slow({"_num_epochs": 3, "_verbose": True}).train()
"""


def screen(text):
    """Return the lines that a terminal shows in the end."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = []
        for part in line.split("\r"):
            shown[: len(part)] = part
        lines.append("".join(shown).rstrip())
    return lines


def in_terminal(script, columns, **environment):
    """Run a script in a terminal of so many columns, and return all that it wrote there."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=writing,
        stderr=writing,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )
    os.close(writing)
    seen = b""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            seen += (part := os.read(reading, 65536))
        except OSError:  # the other end is closed
            break
        if not part:
            break
    os.close(reading)
    assert process.wait(timeout=60) == 0, seen
    return seen.decode()


SCREEN = """\
Slow: 4 parameters on cpu, epochs 1 to 3

           train      valid
epoch       loss       loss        lr    time
  1/3     #     #         -    # *
  2/3     #     #         -    #
  3/3     #     #         -    #

best (*) valid loss # in epoch 1, #
"""


@pytest.mark.parametrize(("columns", "environment"), [(80, {}), (120, {}), (80, {"NO_COLOR": "1"})])
def test_in_a_terminal_the_bar_goes_away_again(columns, environment):
    text = in_terminal(SLOW, columns, **environment)
    bars = [part for part in re.split(r"[\r\n]", text) if "epoch 2/3 train:" in part]
    assert len(bars) >= 2 and any("/3 [" in bar for bar in bars), "there was a bar"
    assert any(re.search(r", run \d\.\ds\]", bar) for bar in bars), "that says when the run ends"
    assert "run " not in "".join(part for part in re.split(r"[\r\n]", text) if "epoch 1/3" in part)
    assert max(map(len, re.split(r"[\r\n]", text))) <= columns
    assert "\x1b" not in text
    left = "\n".join(screen(text)).rstrip() + "\n"
    assert re.sub(r"\d+\.\d+s?", "#", left) == SCREEN


def test_in_a_pipe_there_are_only_plain_lines():
    done = subprocess.run(
        [sys.executable, "-c", SLOW],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == b""
    assert not re.search(rb"[^\x20-\x7e\n]", done.stdout)
    assert re.sub(r"\d+\.\d+s?", "#", done.stdout.decode().rstrip() + "\n") == SCREEN


# ---------------------------------------------------------------- how long it lasts


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test sets; the console reads it."""
    now = [1000.0]
    monkeypatch.setattr(console, "perf_counter", lambda: now[0])
    return now


def test_the_time_that_is_left_is_the_mean_of_the_epochs(clock):
    shown = Console(verbose=False)
    assert shown.seconds_left() is None
    shown.epoch(entry(1, {"loss": 1.0}, seconds=10.0), 5, False)
    shown.epoch(entry(2, {"loss": 1.0}, seconds=20.0), 5, False)
    assert shown.seconds_left() == 45.0
    clock[0] += 40
    assert shown.seconds_left() == 5.0
    clock[0] += 40
    assert shown.seconds_left() == 0.0
    shown.epoch(entry(5, {"loss": 1.0}, seconds=20.0), 5, False)
    assert shown.seconds_left() is None


@pytest.mark.parametrize("width", [40, 55, 60, 70, 80, 120])
def test_the_bar_says_it_where_it_fits(clock, capsys, monkeypatch, width):
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda file: (width, 24))
    bar = console.Bar("epoch 100/100 train", 12345, lambda: 3725.0)
    for _ in range(30):
        clock[0] += 1
        bar.tick()
    bar.close()
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "train:" in line]
    assert max(map(len, lines)) <= width
    if width != 70:  # where it fits at first, and not any more when the numbers have grown
        assert all(("run 1h02m]" in line) == (width >= 80) for line in lines), lines
    assert not any("run" in line and not line.endswith("run 1h02m]") for line in lines), "it is never cut"


def test_a_long_pass_prints_a_line_a_minute(clock, capsys):
    beat = Console().heartbeat("train", 1000, "epoch 3/12")
    look, looks = 1, 0
    for done in range(1, 1001):
        clock[0] += 1.0
        if done == look:
            look, looks = beat.look(done), looks + 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 16 == 1000 // 60
    assert re.fullmatch(r"epoch 3/12 train: 6\d/1000 batches, 1m0\ds, 15m\d\ds left", lines[0])
    assert looks < 250, "the clock is looked at every five seconds"


def test_a_pass_that_slows_down_is_looked_at_in_time(clock, capsys):
    beat = Console().heartbeat("valid", None, "epoch 1/1")
    look = 1
    for done in range(1, 1200):
        clock[0] += 0.001 if done < 1000 else 1.0
        if done == look:
            look = beat.look(done)
    first = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"epoch 1/1 valid: \d+ batches, \d+m\d\ds", line) for line in first)


def test_a_heartbeat_says_when_the_run_ends_where_it_fits(clock, capsys):
    shown = Console()
    shown.epoch(entry(1, {"loss": 1.0}, seconds=600.0), 3, False)
    capsys.readouterr()
    for text in ("epoch 2/3", "epoch 2/3" + "x" * 60):
        beat = shown.heartbeat("train", 10, text, timed=True)
        clock[0] += 61
        beat.look(1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", run 18m59s left") and "run" not in lines[1]
    assert max(map(len, lines)) <= 80


def test_where_there_is_a_heartbeat(monkeypatch):
    def streams(out, err):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)

    def beats(**settings):
        return Console(**settings).heartbeat("train", 3, "epoch 1/1") is not None

    terminal, file = SimpleNamespace(isatty=lambda: True), SimpleNamespace(isatty=lambda: False)
    streams(terminal, terminal)
    assert not beats() and beats(use_tqdm=False), "a bar, or this"
    streams(file, terminal)
    assert beats() and not beats(verbose=False), "the file shows no bar"
    streams(file, file)
    assert beats() and beats(use_tqdm=True)
    streams(terminal, file)
    assert beats()


def test_a_notebook_has_a_bar(monkeypatch):
    stream = type("OutStream", (), {"isatty": lambda self: False, "__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    assert Console().bar("train", 3, "epoch 1/1") is not None
    assert Console().heartbeat("train", 3, "epoch 1/1") is None


def test_a_run_prints_heartbeats(capsys, monkeypatch):
    monkeypatch.setattr(console, "HEARTBEAT_SECONDS", 0.0)
    Shown({"_num_epochs": 2}).train()
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if "batches" in line]
    assert re.fullmatch(r"epoch 1/2 train: 1/3 batches, \d\.\ds, \d\.\ds left", lines[0])
    assert any(re.fullmatch(r"epoch 2/2 valid: \d/3 batches, .* left", line) for line in lines)
    check_lines(out, err)
    Shown({"_num_epochs": 2, "_verbose": False}).train()
    assert capsys.readouterr() == ("", "")

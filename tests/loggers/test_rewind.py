"""A run that was killed and goes on: its loggers take out what comes again, a user's own like the shipped ones."""

import csv
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from farabio_like import Logger
from farabio_like.callbacks import Checkpoint
from farabio_like.loggers.csv import CSVLogger

from ..trainers import Tiny

# Three steps an epoch. The first epoch is the best one; it is saved, and then every second one.
SETTINGS = {"_logdir": "runs", "_num_epochs": 5, "_save_epoch": 2, "_log_interval": 1, "_monitor_mode": "max"}


class Lines(Logger):
    """Adds a line for each record to a file of its own, as a user writes it."""

    def __init__(self, path):
        self.path = Path(path)
        self.calls = []

    def rewind(self, run_dir, epoch, step):
        self.calls.append((run_dir, epoch, step, threading.current_thread() is threading.main_thread()))
        kept = [
            line
            for line in self.path.read_text().splitlines(keepends=True)
            if json.loads(line).get("epoch", 0) <= epoch and json.loads(line)["step"] <= step
        ]
        self.path.write_text("".join(kept))

    def start(self, config, run_dir):
        self.calls.append("start")

    def scalars(self, values, step):
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def lines(self):
        """Return what stands in the file, the times aside."""
        found = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


class Logged(Tiny):
    """Has a logger in `_loggers`, one among the callbacks, and one that a hook names."""

    killed_after = None

    def define_log_attr(self):
        folder = Path(self.config.get("folder", "."))
        folder.mkdir(exist_ok=True)
        self.first, self.second, self.third = (Lines(folder / f"{name}.jsonl") for name in "abc")

    def build_model(self):
        super().build_model()
        self._loggers = [self.first, "csv"]
        self.callbacks = [self.second]

    def start_logger(self):
        self._loggers = [self.first, "csv", self.third]

    def on_end_training_batch(self):
        if self.step == self.killed_after:
            time.sleep(0.7)  # the loggers' threads write what waits
            os.kill(os.getpid(), signal.SIGKILL)


def killed(cls, after, **settings):
    """Train in a process of its own, which is killed after a step."""
    child = os.fork()
    if child == 0:
        try:
            trainer = cls({**SETTINGS, **settings})
            trainer.killed_after = after
            trainer.train()
        finally:
            os._exit(1)  # not reached
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def rows(path):
    with open(path, newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_files_of_loggers_are_those_of_a_run_that_was_never_killed():
    whole = Logged({**SETTINGS, "folder": "whole", "_logdir": "whole"})
    whole.train()
    killed(Logged, 11)
    cut = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in cut if "epoch" in line} == {1, 2, 3} and max(line["step"] for line in cut) > 9
    trainer = Logged(SETTINGS)
    trainer.train(resume=True)
    for was, now in zip(
        (whole.first, whole.second, whole.third), (trainer.first, trainer.second, trainer.third), strict=True
    ):
        assert was.calls == ["start"], "a run from the beginning rewinds nothing"
        assert now.calls == [(trainer.run_dir, 2, 6, True), "start"], "once each, before its thread starts"
        assert now.lines() == was.lines()
        assert [line["step"] for line in now.lines() if "running/loss" in line] == list(range(1, 16))
    assert rows(trainer.run_dir / "metrics.csv") == rows(whole.run_dir / "metrics.csv")
    # Neither its test nor another training is a run that goes on.
    trainer.test()
    trainer.train()
    assert trainer.first.calls[2:] == ["start", "start"]


def test_a_run_that_goes_on_in_a_new_folder_leaves_the_records_of_the_other():
    trainer = Logged({**SETTINGS, "_num_epochs": 3})
    trainer.train()
    lines = trainer.first.lines()
    best = trainer.run_dir / "checkpoints" / "best.ckpt"
    further = Logged({**SETTINGS, "_num_epochs": 3})
    further.train(resume=best)
    assert further.run_dir.name == "2" and further.first.calls == ["start"]
    assert further.first.lines()[: len(lines)] == lines


def test_a_table_in_another_place_is_rewound_too():
    class Elsewhere(Logged):
        def start_logger(self):
            self._loggers = CSVLogger("table.csv")

    killed(Elsewhere, 11)
    Elsewhere(SETTINGS).train(resume=True)
    found = rows("table.csv")
    assert [row["epoch"] for row in found if row["epoch"]] == ["1", "2", "3", "4", "5"]
    assert [row["step"] for row in found if row["running/loss"]] == [str(step) for step in range(1, 16)]


def test_a_logger_of_events_alone_is_rewound():
    class Events(Logger):
        calls = []

        def rewind(self, run_dir, epoch, step):
            self.calls.append((epoch, step))

        def on_epoch_end(self, trainer):
            self.calls.append(trainer.epoch)

    class Observed(Logged):
        def build_model(self):
            super().build_model()
            self.callbacks = [Events()]

    killed(Observed, 8)
    Observed({**SETTINGS, "_num_epochs": 3}).train(resume=True)
    assert Events.calls == [(2, 6), 3]


@pytest.mark.parametrize("error", [OSError("the place is gone"), ZeroDivisionError("a mistake")])
def test_a_logger_that_cannot_be_rewound_is_said_and_records(error):
    class Broken(Lines):
        def rewind(self, run_dir, epoch, step):
            raise error

    class Trained(Logged):
        def define_log_attr(self):
            super().define_log_attr()
            self.first = Broken("a.jsonl")

    killed(Trained, 8)
    trainer = Trained({**SETTINGS, "_num_epochs": 3})
    message = rf"Broken could not take out .* epoch 2, step 6 \({type(error).__name__}: {error}\). The run goes on"
    with pytest.warns(UserWarning, match=message) as caught:
        trainer.train(resume=True)
    assert [warning.filename for warning in caught if "Broken" in str(warning.message)] == [__file__]
    assert [line["step"] for line in trainer.first.lines() if "epoch" in line] == [3, 6, 9]
    assert [line["step"] for line in trainer.second.lines() if "running/loss" in line] == list(range(1, 10))


@pytest.mark.parametrize("text", ["", "\n", "no table", "a,b\n1,2\n", "step,running/loss\nx,1\n"])
def test_a_file_that_is_no_table_of_a_logger_stays_as_it_is(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    CSVLogger().rewind(tmp_path, 0, 0)
    assert path.read_text() == text


def test_an_epoch_that_was_saved_in_its_last_hook_is_recorded_once():
    class Saved(Logged):
        def build_model(self):
            super().build_model()
            self.callbacks = [Checkpoint(every_epochs=3, top_k=0)]

    killed(Saved, 11, _save_epoch=10)
    trainer = Saved(SETTINGS)
    trainer.train(resume=True)
    lines = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3, 4, 5]
    for line in rows(trainer.run_dir / "metrics.csv"), trainer.first.lines():
        assert [int(entry["epoch"]) for entry in line if entry.get("epoch")] == [1, 2, 3, 4, 5]

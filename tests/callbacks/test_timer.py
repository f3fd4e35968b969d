"""Timer: what it counts as data and what as model."""

import time

import pytest

from farabio_like import Callback
from farabio_like.callbacks import timer as module
from farabio_like.callbacks.timer import Timer
from tests.trainers import INPUTS, TARGETS, Tiny


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_times_are_means_per_batch(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "perf_counter", clock)

    class Loader:
        def __iter__(self):
            for wait in (5.0, 1.0, 1.0, 1.0):  # the first takes longer
                clock.now += wait
                yield INPUTS, TARGETS

    class Late(Callback):
        def on_end_training_batch(self, trainer):
            clock.now += 0.5

    class Timed(Tiny):
        def training_step(self):
            clock.now += 0.25
            super().training_step()

        def on_train_epoch_start(self):
            clock.now += 100

    trainer = Timed()
    trainer.train_loader = Loader()
    trainer.callbacks = [Timer(), Late()]
    for entry in trainer.train():
        times = {name: value for name, value in entry["train"].items() if name != "loss"}
        assert times == {"time_data": 2.0, "time_model": 0.75, "time_batch": 2.75}
        assert list(entry["valid"]) == ["loss"]


def test_sum_is_the_time_of_the_loop():
    class Slow(Tiny):
        def training_step(self):
            time.sleep(0.01)
            super().training_step()

    trainer = Slow({"_num_epochs": 1})
    trainer.callbacks = [Timer()]
    [entry] = trainer.train()
    assert entry["train"]["time_model"] >= 0.01
    assert entry["train"]["time_batch"] == pytest.approx(entry["train"]["time_data"] + entry["train"]["time_model"])
    assert 3 * entry["train"]["time_batch"] <= entry["seconds"]

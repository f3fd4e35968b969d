"""LearningRateMonitor: the lines, the picture."""

import json

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from farabio_like import Callback, ConfigError, plots
from farabio_like.callbacks import learning_rate
from farabio_like.callbacks.learning_rate import LearningRateMonitor
from farabio_like.plots import painter
from farabio_like.rundir import environment
from tests.trainers import Tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(environment, "copy_code", lambda owner, folder: None)
    for module in (plots, painter):
        monkeypatch.setattr(module, "curves", lambda history, best=None: Figure())


class Halving(Tiny):
    def build_model(self):
        super().build_model()
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)
        self._logdir, self._scheduler_step = "runs", "step"


class Pair(Halving):
    def build_model(self):
        super().build_model()
        self.scheduler = None
        self.other = layers = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)])
        groups = [{"params": layers[0].parameters(), "lr": 0.5}, {"params": layers[1].parameters(), "lr": 0.25}]
        self.optimizer = {"a": self.optimizer, "b": torch.optim.SGD(groups)}


def lines(trainer):
    return [json.loads(line) for line in (trainer.run_dir / "lr.jsonl").read_text().splitlines()]


def with_monitor(kind, *callbacks):
    trainer = kind()
    trainer.callbacks = [LearningRateMonitor(), *callbacks]
    return trainer


def test_lines_are_the_rates_that_steps_were_made_with():
    trainer = with_monitor(Halving)
    trainer.train()
    rates = [0.1 * 0.5**step for step in range(6)]
    assert lines(trainer) == [
        {"epoch": step // 3 + 1, "step": step + 1, "lr": pytest.approx(rate)} for step, rate in enumerate(rates)
    ]


def test_several_optimizers_and_groups():
    trainer = with_monitor(Pair)
    trainer.train()
    assert lines(trainer) == [
        {"epoch": step // 3 + 1, "step": step + 1, "lr": {"a": 0.1, "b": [0.5, 0.25]}} for step in range(6)
    ]
    [panel] = learning_rate._figure(trainer.run_dir / "lr.jsonl").axes
    assert [line.get_label() for line in panel.lines] == ["a", "b group 0", "b group 1"]


def test_picture():
    trainer = with_monitor(Halving)
    trainer.train()
    assert (trainer.run_dir / "plots" / "learning_rate.png").read_bytes()[:4] == b"\x89PNG"
    path = trainer.run_dir / "lr.jsonl"
    with open(path, "a") as file:  # as a resumed run does
        file.write(json.dumps({"epoch": 1, "step": 2, "lr": 7.0}) + "\n")
    [line] = learning_rate._figure(path).axes[0].lines
    assert line.get_label() == "lr"
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(line.get_ydata())[:3] == pytest.approx([0.1, 7.0, 0.025])


def test_an_exception_loses_nothing():
    class Fails(Callback):
        def on_end_training_batch(self, trainer):
            if trainer.step == 5:
                raise LookupError

    trainer = with_monitor(Halving, Fails())
    with pytest.raises(LookupError):
        trainer.train()
    assert [line["step"] for line in lines(trainer)] == [1, 2, 3, 4, 5]


def test_state_holds_the_lines_that_are_not_in_the_file():
    states = []

    class Saves(Callback):
        order = 300

        def on_end_training_batch(self, trainer):
            states.append(trainer.callbacks[0].state_dict())

    trainer = with_monitor(Halving, Saves())
    trainer.train()
    assert [[line["step"] for line in state["waiting"]] for state in states] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [4],
        [4, 5],
        [4, 5, 6],
    ]
    torch.save(states[1], "state.pt")
    fresh = LearningRateMonitor()
    fresh.load_state_dict(torch.load("state.pt", weights_only=True))
    assert fresh.state_dict() == states[1]


def test_without_a_folder_it_says_so():
    with pytest.raises(ConfigError, match="no run folder.*_logdir"):
        with_monitor(Tiny).train()

"""Schedulers: per epoch, per step, by a metric; reading and setting the learning rate."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from farabio_like import ConfigError
from tests.trainers import Tiny


class Scheduled(Tiny):
    scheduler_of = None

    def build_model(self):
        super().build_model()
        self.scheduler = type(self).scheduler_of(self.optimizer)


def rates(scheduler, trainer=Scheduled, **settings):
    class Own(trainer):
        scheduler_of = staticmethod(scheduler)
        seen = ()

        def optimizer_step(self):
            self.seen += (self.get_lr(),)
            super().optimizer_step()

    own = Own({"_num_epochs": 3, **settings})
    history = own.train()
    return own, own.seen, [entry["lr"] for entry in history]


def halving(optimizer):
    return lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


def test_a_scheduler_steps_once_per_epoch():
    trainer, per_step, per_epoch = rates(halving)
    assert per_step == (0.1,) * 3 + (0.05,) * 3 + (0.025,) * 3
    assert per_epoch == [0.1, 0.05, 0.025]
    assert trainer.get_lr() == 0.0125


def test_a_scheduler_steps_once_per_step():
    _, per_step, _ = rates(halving, _scheduler_step="step")
    assert per_step == tuple(0.1 * 0.5**k for k in range(9))


def test_a_scheduler_that_a_hook_steps_is_left_alone():
    class Steps(Scheduled):
        def on_epoch_end(self):
            self.scheduler.step()

    assert rates(halving, Steps)[2] == [0.1, 0.05, 0.025]


def test_a_plateau_follows_the_monitored_metric():
    # Patience 3 and factor 0.1: of 13 values that only rise, the first is best, and every fourth bad one cuts.
    class Rising(Scheduled):
        def evaluate_batch(self, item):
            self.batch_metrics["loss"] = float(self.epoch)

    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=3)

    trainer, _, per_epoch = rates(plateau, Rising, _num_epochs=13)
    assert per_epoch == pytest.approx([0.1] * 5 + [0.01] * 4 + [0.001] * 4)
    assert trainer.get_lr() == pytest.approx(0.0001)


def test_a_plateau_waits_for_an_evaluation():
    def plateau(optimizer):
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, mode="max")

    class Only(Scheduled):
        def evaluate_batch(self, item):
            self.batch_metrics["score"] = 1.0

    _, _, per_epoch = rates(plateau, Only, _num_epochs=5, _eval_interval=2, _monitor="score")
    assert per_epoch == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.01])


def test_several_schedulers():
    class Two(Tiny):
        def build_model(self):
            self.model = nn.Linear(3, 1)
            self.criterion = nn.MSELoss()
            self.optimizer = {
                "weight": torch.optim.SGD([self.model.weight], lr=0.1),
                "bias": torch.optim.SGD([{"params": [self.model.bias], "lr": 0.2}], lr=1.0),
            }
            self.scheduler = {"weight": halving(self.optimizer["weight"])}

    history = Two().train()
    assert [entry["lr"] for entry in history] == [{"weight": 0.1, "bias": 0.2}, {"weight": 0.05, "bias": 0.2}]


def test_get_and_set_lr():
    trainer = Tiny()
    assert trainer.get_lr() == 0.1
    trainer.set_lr(0.3)
    assert trainer.get_lr() == 0.3
    trainer.optimizer = torch.optim.SGD(
        [{"params": [trainer.model.weight], "lr": 1.0}, {"params": [trainer.model.bias], "lr": torch.tensor(2.0)}]
    )
    assert trainer.get_lr() == [1.0, 2.0]
    trainer.set_lr([3, 4])
    assert trainer.get_lr() == [3.0, 4.0] and isinstance(trainer.optimizer.param_groups[1]["lr"], torch.Tensor)
    with pytest.raises(ConfigError, match="3 learning rates for 2 parameter groups"):
        trainer.set_lr([1, 2, 3])
    with pytest.raises(ConfigError, match="no such keys"):
        trainer.set_lr({"head": 1})
    for wrong in ("high", -1, float("nan"), None):
        with pytest.raises(ConfigError, match="expected a number, 0 or more"):
            trainer.set_lr(wrong)
    assert trainer.get_lr() == [3.0, 4.0]
    trainer.optimizer = {"a": torch.optim.SGD([trainer.model.weight], lr=1.0), "b": None}
    trainer.set_lr({"a": 0.5})
    assert trainer.get_lr() == {"a": 0.5, "b": None}

"""Optimizers and schedules that hooks change in the course of a run are as they were when it goes on."""

import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import Callback, CheckpointError, ConvnetTrainer, Stage

from ..trainers import Stopped

X = torch.linspace(-1, 1, 96).reshape(24, 4)
Y = X.sum(1, keepdim=True).sin()
EPOCHS, BATCHES = 4, 4


class Run(Stopped, ConvnetTrainer):
    stop = None

    def define_misc_attr(self):
        self._num_epochs, self._verbose, self._device = EPOCHS, True, "cpu"

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(X, Y), 6, shuffle=True)
        self.valid_loader = DataLoader(TensorDataset(X, Y), 24)

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.Adam(self.model[4].parameters(), lr=0.01)
        self.model[:4].requires_grad_(False)


class Unfreezes(Run):
    """A layer more in every epoch, from the last to the first, each with a rate of its own."""

    def on_train_epoch_start(self):
        if self.epoch in (2, 3):
            part = self.model[6 - 2 * self.epoch].requires_grad_(True)
            self.optimizer.add_param_group({"params": part.parameters(), "lr": 0.01 / self.epoch})


class UnfreezesInABatch(Run):
    def on_start_training_batch(self, item):
        super().on_start_training_batch(item)
        if self.step == 6:
            self.optimizer.add_param_group({"params": [p.requires_grad_(True) for p in self.model[2].parameters()]})


class ByACallback(Run):
    def define_train_attr(self):
        class Unfreeze(Callback):
            def on_epoch_end(self, trainer):
                if trainer.epoch == 2:
                    trainer.optimizer.add_param_group({"params": trainer.model[2].requires_grad_(True).parameters()})

        self.callbacks = [Unfreeze()]


class UnfreezesWithASchedule(Unfreezes):
    """A new schedule for the groups that there are then, of another class than the first one."""

    def build_model(self):
        super().build_model()
        self.scheduler = lr_scheduler.StepLR(self.optimizer, 1, 0.9)

    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        if self.epoch == 2:
            self.scheduler = lr_scheduler.CosineAnnealingLR(self.optimizer, 3)


class Replaces(Run):
    """Adam, then SGD with momentum, then a class of the user's."""

    def build_model(self):
        super().build_model()
        self.scheduler = lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.model.requires_grad_(True)
            groups = [{"params": self.model[:4].parameters(), "lr": 0.02}, {"params": self.model[4].parameters()}]
            self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
            self.scheduler = lr_scheduler.SequentialLR(
                self.optimizer,
                [lr_scheduler.LinearLR(self.optimizer, 0.1), lr_scheduler.ExponentialLR(self.optimizer, 0.5)],
                milestones=[1],
            )
        if self.epoch == 4:
            self.optimizer = Signs(self.model.parameters(), lr=0.01)


class Signs(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 0.5)
                    p.sub_(group["lr"] * mean.sign())


class SameClass(Run):
    """Another Adam, with groups by kinds of parameters and settings of its own; no schedule any more."""

    def build_model(self):
        super().build_model()
        self.scheduler = lr_scheduler.ExponentialLR(self.optimizer, 0.5)

    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.model.requires_grad_(True)
            named = dict(self.model.named_parameters())
            groups = [
                {"params": [p for n, p in named.items() if "weight" in n], "weight_decay": 0.1},
                {"params": [p for n, p in named.items() if "bias" in n]},
            ]
            self.optimizer, self.scheduler = torch.optim.Adam(groups, lr=0.02, amsgrad=True), None


class Later(Run):
    """A schedule, and a second optimizer for a network of its own, that the constructor does not make."""

    def build_model(self):
        super().build_model()
        self.scale = nn.Parameter(torch.ones(1))
        self.others = {}

    def compute_loss(self):
        self.outputs = self.forward() * self.scale
        return self.criterion(self.outputs, self.targets)

    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.others["scale"] = torch.optim.SGD([self.scale], lr=0.05, momentum=0.5)
            self.scheduler = lr_scheduler.ReduceLROnPlateau(self.optimizer, patience=0, factor=0.5, threshold=0.5)

    def optimizer_step(self):
        super().optimizer_step()
        for other in self.others.values():
            other.step()
            other.zero_grad()


class InADict(Run):
    def build_model(self):
        super().build_model()
        self.optimizer = {
            "head": torch.optim.Adam(self.model[4].parameters(), lr=0.01),
            "body": torch.optim.SGD(self.model[2].parameters(), lr=0.1),
        }

    def on_train_epoch_start(self):
        if self.epoch == 3:
            self.model.requires_grad_(True)
            self.optimizer["body"] = torch.optim.AdamW(self.model[:4].parameters(), lr=0.01)
            self.scheduler = {"body": lr_scheduler.StepLR(self.optimizer["body"], 1, 0.5)}


class Staged(Run):
    """A group more, in a stage with an optimizer of its own."""

    def define_train_attr(self):
        self._stages = [Stage("first", 1), Stage("second", 3)]

    def on_stage_start(self):
        if self.stage.name == "second":
            self.optimizer = torch.optim.SGD(self.model[4].parameters(), lr=0.1, momentum=0.9)

    def on_train_epoch_start(self):
        if self.epoch == 3:
            self.optimizer.add_param_group({"params": self.model[2].requires_grad_(True).parameters(), "lr": 0.01})


class Accumulates(Unfreezes):
    """In windows of three batches, with clipped gradients."""

    def define_train_attr(self):
        self._accumulation_steps, self._clip_norm = 3, 0.5


class AsSteps(Unfreezes):
    """The flag of the user's that the hook asks, in place of the epoch's number."""

    def define_train_attr(self):
        self.unfrozen = 0

    def on_train_epoch_start(self):
        if self.unfrozen < self.epoch - 1 and self.unfrozen < 2:
            self.unfrozen += 1
            self.optimizer.add_param_group(
                {"params": self.model[4 - 2 * self.unfrozen].requires_grad_(True).parameters()}
            )


KINDS = [
    *(Unfreezes, UnfreezesInABatch, ByACallback, UnfreezesWithASchedule, Replaces, SameClass, Later, InADict, Staged),
    *(Accumulates, AsSteps),
]


def train(kind, stop=None, logdir="stopped", resume=False):
    for seeded in (torch.manual_seed, np.random.seed, random.seed):
        seeded(3 if not resume else 99)
    trainer = kind()
    trainer.stop, trainer._logdir = stop, logdir
    if stop is None:
        trainer.train(resume=resume)
    else:
        with pytest.raises(SystemExit):
            trainer.train(resume=resume)
    return trainer


def without_seconds(history):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in history]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_the_optimizers_that_its_hooks_made(kind):
    whole = train(kind, logdir="whole")
    for where in (6, 10, (3, "valid"), 15):
        shutil.rmtree("stopped", ignore_errors=True)
        train(kind, where)
        resumed = train(kind, resume=True)
        pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs), where
        assert without_seconds(resumed.history) == without_seconds(whole.history)
        assert type(resumed.scheduler) is type(whole.scheduler)


class ByFunctions(Run):
    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.scheduler = lr_scheduler.LambdaLR(self.optimizer, lambda epoch: 0.5**epoch)


class OfItsOwnMaking(Run):
    def on_train_epoch_start(self):
        if self.epoch == 2:
            self.optimizer = Odd(self.model.parameters(), object())


class Odd(torch.optim.SGD):
    def __init__(self, params, helper):
        super().__init__(params, lr=0.1)
        self.helper = helper


@pytest.mark.parametrize(("kind", "name"), [(ByFunctions, "scheduler"), (OfItsOwnMaking, "optimizer")])
def test_what_cannot_be_made_again_is_an_error_that_names_the_line(kind, name):
    train(kind, 10)
    with pytest.raises(CheckpointError, match=rf"self\.{name} was replaced by a \w+, which cannot be made again") as e:
        train(kind, resume=True)
    assert "on_train_start of " + kind.__name__ in str(e.value) and "self.epoch" in str(e.value)

    class Better(kind):
        def on_train_start(self):
            if self.epoch > 2:
                epoch, self._epoch = self._epoch, 2
                self.on_train_epoch_start()
                self._epoch = epoch

    Better.__name__ = Better.__qualname__ = kind.__name__
    resumed, whole = train(Better, resume=True), train(kind, logdir="whole")
    assert torch.equal(resumed.model[4].weight, whole.model[4].weight)


def test_another_build_is_not_taken_for_a_change_by_a_hook():
    train(Unfreezes, 10)

    class Other(Unfreezes):
        def build_model(self):
            super().build_model()
            self.optimizer = torch.optim.Adam(self.model[2].parameters(), lr=0.01)

    Other.__name__ = Other.__qualname__ = "Unfreezes"
    with pytest.raises(CheckpointError, match=r"self\.optimizer"):
        train(Other, resume=True)

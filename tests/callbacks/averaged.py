"""Trainers of small networks whose weights are averaged."""

import torch
from torch import nn

from farabio_like import components
from farabio_like.callbacks.base import Callback
from tests.trainers import Tiny


def averaged_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


class Deep(Tiny):
    def build_model(self):
        self.model = averaged_network()
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


class Pair(Tiny):
    def build_model(self):
        self.model = {"a": nn.Linear(3, 2), "b": nn.Linear(2, 1)}
        self.criterion = nn.MSELoss()
        both = [*self.model["a"].parameters(), *self.model["b"].parameters()]
        self.optimizer = torch.optim.SGD(both, lr=0.1)

    def forward(self):
        return self.model["b"](self.model["a"](self.inputs))


class Attributes(Pair):
    def build_model(self):
        super().build_model()
        self.first, self.second = self.model["a"], self.model["b"]
        self.model = None

    def forward(self):
        return self.second(self.first(self.inputs))


def flat(trainer):
    return torch.cat([p.detach().flatten() for m in components.modules_of(trainer) for p in m.parameters()]).clone()


def run(kind, *callbacks, **settings):
    trainer = kind(settings)
    trainer.callbacks = list(callbacks)
    trainer.train()
    return trainer


class Seen(Callback):
    """The weights that every evaluated batch sees, and those after the evaluation."""

    def __init__(self):
        self.inside, self.outside = [], []

    def on_evaluate_batch_start(self, trainer):
        self.inside.append(flat(trainer))

    def on_epoch_end(self, trainer):
        self.outside.append(flat(trainer))

    on_end_test_batch = on_evaluate_batch_start


class Failing(Tiny):
    fails = True

    def on_evaluate_batch_end(self):
        if self.fails and self.epoch == 2:
            raise ValueError("mine")

    def on_end_test_batch(self):
        if self.fails:
            raise ValueError("mine")

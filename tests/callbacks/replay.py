"""A trainer whose outputs are given, so that what a metric makes of them can be compared."""

import torch
from torch import nn

from tests.trainers import Tiny


class Replay(Tiny):
    """Takes ``(outputs, targets)`` batches from the loaders of its configuration; learns nothing."""

    def get_trainloader(self):
        pass

    def get_testloader(self):
        pass

    def build_model(self):
        self.model = nn.Linear(1, 1)

    def training_step(self):
        self.loss = self.compute_loss()

    def compute_loss(self):
        self.outputs = self.inputs
        return self.model.weight.sum() * 0


def batches(prediction, target, size=7):
    """Split into batches; the last one is smaller unless the length is a multiple."""
    return list(zip(prediction.split(size), target.split(size), strict=True))


def replay(callbacks, train, valid=None, test=None, kind=Replay, **settings):
    """Return a trainer for one epoch; each loader is a list of batches."""
    loaders = {"train_loader": train, "valid_loader": valid or train, "test_loader": test or train}
    trainer = kind({**loaders, "_num_epochs": 1, **settings})
    trainer.callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return trainer


def measure(callback, prediction, target, size=7):
    """Return what a metric measured over one valid pass, apart from the loss."""
    trainer = replay(callback, batches(prediction, target, size))
    (entry,) = trainer.train()
    return {name: value for name, value in entry["valid"].items() if name != "loss"}


def scores(samples, classes, *size, seed=0, dtype=torch.float32):
    """Return random logits (N, C, ...) and targets (N, ...) that they have something to do with."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (samples, *size), generator=generator)
    logits = torch.randn(samples, classes, *size, generator=generator)
    return (logits + nn.functional.one_hot(target, classes).movedim(-1, 1)).to(dtype), target

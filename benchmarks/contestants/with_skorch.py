"""skorch: ``NeuralNet`` without callbacks, else ``NeuralNetClassifier`` with its default callbacks.

Bare on the digits it is the classifier without its timer and its table, as the callbacks compute the means.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from skorch import NeuralNet, NeuralNetClassifier
from skorch.helper import predefined_split
from torch.utils.data import TensorDataset

from .jobs import SGD, Job


def prepare(job: Job) -> Callable[[], object]:
    arguments = {
        "criterion": job.criterion,
        "optimizer": torch.optim.SGD,
        "lr": SGD["lr"],
        "optimizer__momentum": SGD["momentum"],
        "max_epochs": job.epochs,
        "train_split": None,
        # It builds its loaders from datasets; these are there already.
        "iterator_train": lambda dataset, **arguments: job.train,
        "iterator_valid": lambda dataset, **arguments: job.valid,
    }
    if job.valid is None:
        # It has to be given a data set, though its batches come from the iterator above.
        dataset = TensorDataset(*next(iter(job.train)))
    else:
        dataset = job.train.dataset
        arguments["train_split"] = predefined_split(job.valid.dataset)
    base = NeuralNetClassifier
    if job.bare:
        arguments["verbose"] = 0
        if job.valid is None:
            base = NeuralNet
            arguments["callbacks"] = "disable"
        else:
            arguments |= {"callbacks__epoch_timer": None, "callbacks__print_log": None}

    class EmptyNet(base):
        def train_step(self, batch, **fit_params):
            return READY_OUTPUT

    net = (EmptyNet if job.kind == "empty" else base)(job.model, **arguments).initialize()
    return lambda: net.partial_fit(dataset, None)


# Its loop reads the loss of every step, and its callbacks may read the predictions.
READY_OUTPUT = {"loss": torch.zeros(()), "y_pred": None}

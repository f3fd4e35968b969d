"""argus: ``fit`` without callbacks, else with a checkpoint of the best epoch and a log file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable

import argus
import torch
from argus.callbacks import LoggingToFile, MonitorCheckpoint

from .jobs import SGD, Job


def prepare(job: Job) -> Callable[[], object]:
    with warnings.catch_warnings():
        # Its registry of models by name notices that a class of this name was there before.
        warnings.simplefilter("ignore")

        class Model(argus.Model):
            nn_module = lambda: job.model  # noqa: E731 (argus builds the module by calling this attribute)
            optimizer = torch.optim.SGD
            loss = torch.nn.CrossEntropyLoss

            if job.kind == "empty":

                def train_step(self, batch, state):
                    return READY_OUTPUT

    model = Model({"optimizer": SGD})
    callbacks = None
    if not job.bare:
        monitor = "train_loss" if job.valid is None else "val_accuracy"
        callbacks = [
            MonitorCheckpoint(dir_path=job.folder, monitor=monitor, max_saves=3),
            LoggingToFile(os.path.join(job.folder, "log.txt")),
        ]
    metrics = None if job.valid is None else ["accuracy"]
    return lambda: model.fit(job.train, job.valid, job.epochs, metrics=metrics, callbacks=callbacks)


# Its loop reads the loss of every step.
READY_OUTPUT = {"loss": 0.0}

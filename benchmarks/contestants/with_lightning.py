"""Lightning: ``barebones=True`` and sums kept by hand, else its Trainer's defaults and ``self.log``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch import LightningModule, Trainer

from .jobs import Job


def prepare(job: Job) -> Callable[[], object]:
    mode = {"barebones": True} if job.bare else {"default_root_dir": job.folder}
    trainer = Trainer(accelerator="cpu", max_epochs=job.epochs, **mode)
    kind = Empty if job.kind == "empty" else Bare if job.bare else Quickstart
    module = kind(job)
    return lambda: trainer.fit(module, job.train, job.valid)


class Empty(LightningModule):
    """Manual optimization: with the automatic one a step has to return a loss."""

    def __init__(self, job: Job):
        super().__init__()
        self.automatic_optimization = False
        self.model = job.model

    def training_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return None


class Quickstart(LightningModule):
    """As the quickstart has it, with the epoch's mean loss and accuracy on the validation batches."""

    def __init__(self, job: Job):
        super().__init__()
        self.job = job
        self.model, self.criterion = job.model, job.criterion

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = self.criterion(self.model(inputs), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.model(inputs)
        self.log("valid_loss", self.criterion(outputs, targets))
        self.log("valid_accuracy", (outputs.argmax(1) == targets).float().mean())

    def configure_optimizers(self):
        return self.job.optimizer()


class Bare(Quickstart):
    """Without ``self.log``: its means are kept as in the hand-written loop."""

    def on_train_epoch_start(self):
        self.total, self.seen = torch.zeros(()), 0

    def training_step(self, batch, batch_idx):
        inputs, targets = batch
        loss = self.criterion(self.model(inputs), targets)
        samples = targets.size(0)
        self.total += loss.detach() * samples
        self.seen += samples
        return loss

    def on_train_epoch_end(self):
        self.train_loss = self.total.item() / self.seen

    def on_validation_epoch_start(self):
        self.valid_total, self.correct, self.valid_seen = torch.zeros(()), torch.zeros(()), 0

    def validation_step(self, batch, batch_idx):
        inputs, targets = batch
        outputs = self.model(inputs)
        samples = targets.size(0)
        self.valid_total += self.criterion(outputs, targets) * samples
        self.correct += (outputs.argmax(1) == targets).sum()
        self.valid_seen += samples

    def on_validation_epoch_end(self):
        self.valid_loss = self.valid_total.item() / self.valid_seen
        self.valid_accuracy = self.correct.item() / self.valid_seen

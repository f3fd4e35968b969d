"""Ours, as a user writes it: the classes once, at the top of the file."""

from __future__ import annotations

from collections.abc import Callable

from farabio_like import ConvnetTrainer

from .jobs import Job

current: list[Job] = []


class Ready(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = current[0].epochs
        self._has_eval = current[0].valid is not None

    def define_log_attr(self):
        job = current[0]
        self._logdir = job.folder
        # A bar would show on a terminal only; here it draws wherever it runs with the defaults.
        self._use_tqdm = not job.bare
        self._verbose = not job.bare

    def get_trainloader(self):
        self.train_loader, self.valid_loader = current[0].train, current[0].valid

    def build_model(self):
        job = current[0]
        self.model = job.model
        self.criterion = job.criterion
        self.optimizer = job.optimizer()


class Empty(Ready):
    def training_step(self):
        pass


class Digits(Ready):
    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        if not self.model.training:
            self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)


KINDS = {"empty": Empty, "ready": Ready, "digits": Digits}


def prepare(job: Job) -> Callable[[], object]:
    current[:] = [job]
    return KINDS[job.kind]().train

"""Ours, as a user writes it."""

from __future__ import annotations

from collections.abc import Callable

from farabio_like import ConvnetTrainer

from .jobs import Job


def prepare(job: Job) -> Callable[[], object]:
    class Trainer(ConvnetTrainer):
        def define_train_attr(self):
            self._num_epochs = job.epochs
            self._has_eval = job.valid is not None

        def define_log_attr(self):
            self._logdir = job.folder
            # A bar would show on a terminal only; here it draws wherever it runs with the defaults.
            self._use_tqdm = not job.bare
            self._verbose = not job.bare

        def get_trainloader(self):
            self.train_loader, self.valid_loader = job.train, job.valid

        def build_model(self):
            self.model = job.model
            self.criterion = job.criterion
            self.optimizer = job.optimizer()

    class EmptyTrainer(Trainer):
        def training_step(self):
            pass

    class DigitsTrainer(Trainer):
        def compute_loss(self):
            self.outputs = self.model(self.inputs)
            if not self.model.training:
                self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
            return self.criterion(self.outputs, self.targets)

    kinds = {"empty": EmptyTrainer, "ready": Trainer, "digits": DigitsTrainer}
    return kinds[job.kind]().train

"""Small trainers that the tests share."""

import signal

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer

INPUTS = torch.arange(30.0).reshape(10, 3) / 30
TARGETS = INPUTS.sum(1, keepdim=True) + torch.tensor([[1.0], [-1.0]]).repeat(5, 1)


class Tiny(ConvnetTrainer):
    """A linear model on 10 samples in batches of 4, so that the last batch is smaller.

    The configuration holds settings: ``Tiny({"_num_epochs": 3})``. Nothing is printed or written unless
    it says so.
    """

    def define_misc_attr(self):
        self._device, self._logdir, self._verbose, self._num_epochs = "cpu", None, False, 2
        for name, value in self.config.items():
            setattr(self, name, value)

    def get_trainloader(self):
        self.train_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4)
        self.valid_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4)

    def get_testloader(self):
        self.test_loader = DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4)

    def build_model(self):
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.criterion = nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)


class Stopped:
    """Asks its run to end, as the system does, after the step `stop`, or in the evaluation of ``(epoch, "valid")``."""

    stop: int | tuple[int, str] | None = None

    def on_end_training_batch(self):
        if self.stop == self.step:
            signal.raise_signal(signal.SIGTERM)

    def on_evaluate_batch_end(self):
        if self.stop == (self.epoch, "valid"):
            signal.raise_signal(signal.SIGTERM)


class Still(Tiny):
    """Takes no step, so that a script with it starts a second sooner: an optimizer imports the compiler."""

    def build_model(self):
        self.model = nn.Linear(3, 1)
        self.criterion = nn.MSELoss()

    def training_step(self):
        self.loss = self.compute_loss()

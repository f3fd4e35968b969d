"""The trainer that wrote ``Older/1``: killed by version 0.1.0 in the middle of its third epoch.

Written by ``python -m tests.older.older FOLDER``; the files are kept as they are, so that later versions can show
that they read, resume and report on them.
"""

import os
import random
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer
from farabio_like.callbacks import EMA, EarlyStopping

KILLED_AFTER = 22  # steps; the last one that was saved is 20, batch 4 of epoch 3
BATCHES = 8

CONFIG = {
    "lr": 1e-05,
    "widths": [6, 16, 3],
    "nested": {"name": "yes", "empty": {}, "list": [], "quoted": 'a "b" \\ c: # d', "none": None},
    "words": ["on", "012", "1:30", "2026-11-29", "é – 中", "two\nlines", ""],
    "flags": [True, False],
    "huge": float("inf"),
}


class Older(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = 4
        self._save_steps = 4
        self._monitor = "accuracy"

    def define_misc_attr(self):
        self._seed = 3
        self._verbose = self._use_tqdm = False
        self._loggers = "csv"
        self._log_interval = 3
        self.seen = [0]  # plain data that a step changes
        self.total = torch.zeros(3, dtype=torch.float64)  # a tensor of its own
        self.draws = random.Random(5)  # a generator of its own

    def get_trainloader(self):
        draw = torch.Generator().manual_seed(1)
        inputs = torch.randn(BATCHES * 8, 6, generator=draw)
        targets = inputs[:, :3].argmax(1)
        self.train_loader = DataLoader(TensorDataset(inputs, targets), batch_size=8, shuffle=True)
        self.valid_loader = [(inputs[:16], targets[:16])]

    def build_model(self):
        self.model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.25), nn.Linear(16, 3))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.75)
        self.callbacks = [EMA(0.75), EarlyStopping("accuracy", patience=50, mode="max")]

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)

    def on_end_training_batch(self):
        self.seen.append(len(self.seen) + self.draws.randrange(3))
        self.total += torch.bincount(self.targets, minlength=3)
        if self.step == getattr(self, "killed_after", None):
            time.sleep(1)  # the loggers' threads write what waits
            os._exit(9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer = Older(CONFIG)
    trainer._logdir = Path(sys.argv[1])
    trainer.killed_after = KILLED_AFTER
    trainer.train()

"""Going on after a process has died, on one machine or many.

    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/elastic.py
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/elastic.py --kill-at 40

Trains a small network on scikit-learn's 1,797 real 8x8 digits. With ``--kill-at`` the last process kills itself by
SIGKILL after that many steps, the first time. ``torchrun`` then starts all processes again, and the trainer goes on
by itself from the last checkpoint: the script says nothing about it, and the weights are those of a run that was
never killed.
"""

import argparse
import hashlib
import os
import signal

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer, components


class Elastic(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = 3
        self._save_steps = 7  # at most so many steps are trained twice

    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).flatten(1) / 16
        everything = TensorDataset(images, torch.tensor(digits.target))
        self.train_loader = DataLoader(everything, batch_size=64, shuffle=True)

    def build_model(self):
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def on_end_training_batch(self):
        first_start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        last_rank = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
        if self.step == self.config.kill_at and first_start and last_rank:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kill-at", type=int, default=0, help="the step after which a process dies")
    torch.manual_seed(0)
    trainer = Elastic(parser.parse_args())
    history = trainer.train()
    weights = components.model_state(trainer.model).values()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights)).hexdigest()
    print(f"{trainer.step} steps, loss {history[-1]['train']['loss']:.10f}, weights {digest[:16]}")

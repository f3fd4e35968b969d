"""Killed three times, and nothing lost.

    python examples/resume.py

Trains on scikit-learn's 1,797 real 8x8 digits twice: once without a fault, and once in a process that is killed
with SIGKILL at a random step, three times, and started again each time. In the end the weights are compared.
Some twenty seconds on two CPU cores.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer

EPOCHS, BATCHES = 4, 24


class Digits(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = EPOCHS
        self._save_steps = 5
        self._verbose = False
        self._logdir = self.config.folder

    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        targets = torch.tensor(digits.target)
        self.train_loader = DataLoader(TensorDataset(images[:1500], targets[:1500]), batch_size=64, shuffle=True)
        self.valid_loader = DataLoader(TensorDataset(images[1500:], targets[1500:]), batch_size=297)

    def build_model(self):
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3)

    def on_train_epoch_start(self):
        print(f"epoch {self.epoch}", flush=True)

    def on_end_training_batch(self):
        print(f"step {self.step}", flush=True)


def run(folder, kill_at=None):
    """Train in a process of its own; kill it when it says that it has come to a step. Return the first one it did."""
    command = [sys.executable, __file__, folder]
    first = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            word, _, number = line.strip().partition(" ")
            if word == "step":
                first = first or int(number)
                if kill_at is not None and int(number) >= kill_at:
                    os.kill(process.pid, signal.SIGKILL)
                    break
    return first


def weights(folder):
    return torch.load(f"{folder}/Digits/1/model.pth", weights_only=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = f"{folder}/whole", f"{folder}/killed"
        run(whole)
        print(f"trained {EPOCHS * BATCHES} steps without a fault")
        step = 0
        for _ in range(3):
            step = random.randint(step + 6, step + 28)
            first = run(killed, kill_at=step)
            print(f"began at step {first}, killed by SIGKILL at step {step}")
        print(f"began at step {run(killed)}, and came to the end")
        a, b = weights(whole), weights(killed)
        equal = all(torch.equal(a[name], b[name]) for name in a)
        print("the weights are", "equal, bit for bit" if equal else "DIFFERENT", "to those of the run never killed")
        return 0 if equal else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.manual_seed(0)
        Digits({"folder": sys.argv[1]}).train(resume=True)
    else:
        sys.exit(main())

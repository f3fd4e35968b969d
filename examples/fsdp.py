"""A model in shards: trained, saved and resumed on other numbers of processes, and exported to one plain file.

    python examples/fsdp.py

Trains a small network on scikit-learn's 1,797 real 8x8 digits. The script starts itself by ``torchrun`` on 2 processes,
each of which holds a half of every parameter, and saves its half of a checkpoint. Then 2 processes go on from it, and
1 process alone, and both save their weights as an ordinary file. In the end the predictions of the two are compared.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from farabio_like import ConvnetTrainer


def digits():
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32).flatten(1) / 16, torch.tensor(found.target)


class Sharded(ConvnetTrainer):
    def define_train_attr(self):
        self._num_epochs = self.config.epochs

    def define_compute_attr(self):
        self._strategy = "fsdp"  # the one line that makes it so
        self._device = "cpu"
        self._seed = 0

    def get_trainloader(self):
        images, labels = digits()
        self.train_loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)

    def build_model(self):
        blocks = [nn.Sequential(nn.Linear(320, 320), nn.LayerNorm(320), nn.ReLU()) for _ in range(3)]
        self.model = nn.Sequential(nn.Linear(64, 320), *blocks, nn.Linear(320, 10))
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)


def run(processes, *arguments):
    """Start this script on so many processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    starts = torchrun if processes > 1 else [sys.executable]
    subprocess.run([*starts, __file__, *map(str, arguments)], check=True, timeout=300)


def predictions(weights):
    """Return what the network says to every digit, with weights from an ordinary file."""
    trainer = Sharded({"epochs": 0})
    trainer.load_model(weights)
    return next(trainer.predict(digits()[0]))


def main(folder):
    half, by_two, by_one = folder / "half.ckpt", folder / "by_two.pth", folder / "by_one.pth"
    run(2, "--epochs=2", f"--checkpoint={half}")
    print("\nsaved:", ", ".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())))
    run(2, "--epochs=4", f"--resume={half}", f"--export={by_two}")
    run(1, "--epochs=4", f"--resume={half}", f"--export={by_one}")
    two, one = predictions(by_two), predictions(by_one)
    right = (two.argmax(1) == digits()[1]).float().mean()
    print(f"\nresumed on 2 processes and on 1: scores differ by at most {(two - one).abs().max():.1e}")
    same = int((two.argmax(1) == one.argmax(1)).sum())
    print(f"{right:.1%} of the digits are named rightly; the same predictions for {same} of {len(one)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--checkpoint")
    parser.add_argument("--resume")
    parser.add_argument("--export")
    options = parser.parse_args()
    if options.epochs is None:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
    else:
        trainer = Sharded(options)
        trainer.train(resume=options.resume or False)
        if options.checkpoint:
            trainer.save_checkpoint(options.checkpoint)
        if options.export:
            trainer.save_model(options.export)

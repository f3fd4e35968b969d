"""Handwritten digits, ready made.

    python examples/classify_digits.py

The data and the network of digits.py in ten lines. Prints the accuracy on 400 images that were not trained on, and
leaves curves, the confusion matrix, bars per class, the worst mistakes and a report in the run folder. Some seconds on
two CPU cores.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

from farabio_like.trainers import ClassificationTrainer

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
data = TensorDataset(images, torch.tensor(digits.target))
train, valid, test = random_split(data, [1197, 200, 400], torch.Generator().manual_seed(0))


def network():
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, 10),
    )  # fmt: skip


if __name__ == "__main__":
    options = {"classes": 10, "num_epochs": 8, "batch_size": 32, "lr": 2e-3, "top_k": (1, 3)}
    trainer = ClassificationTrainer(options, model=network, train=train, valid=valid, test=test)
    trainer.train()
    print(f"test accuracy {trainer.test()['accuracy']:.4f}, report in {trainer.run_dir / 'report.html'}")

"""Handwritten digits: the trainer of digits.yml, which says how wide it is and how it learns.

    farabio-like run digits.yml settings.num_epochs=3

The data are scikit-learn's 1,797 real 8x8 images; the test is on 400 that were not trained on.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from farabio_like import ConvnetTrainer


def network(width=32, dropout=0.2):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, 10),
    )  # fmt: skip


class Digits(ConvnetTrainer):
    def define_data_attr(self):
        # How a picture of any size becomes an input, for predict, trace and serve.
        self.input_spec = {"mode": "L", "size": [8, 8], "classes": [str(digit) for digit in range(10)]}

    def get_trainloader(self):
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        everything = TensorDataset(images, torch.tensor(digits.target))
        train, valid, self.test_set = random_split(everything, [1197, 200, 400], torch.Generator().manual_seed(0))
        self.train_loader = DataLoader(train, batch_size=self.config.batch_size, shuffle=True)
        self.valid_loader = DataLoader(valid, batch_size=200)

    def get_testloader(self):
        self.test_loader = DataLoader(self.test_set, batch_size=200)

    def compute_loss(self):
        self.outputs = self.model(self.inputs)
        self.batch_metrics["accuracy"] = (self.outputs.argmax(1) == self.targets).float().mean()
        return self.criterion(self.outputs, self.targets)
